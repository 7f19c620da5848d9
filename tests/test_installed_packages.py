"""Which packages count as installed."""

from helpers.module_code import load_module

installed_packages = load_module("installed_packages")


def test_only_packages_that_are_unpacked_and_configured_count() -> None:
    listed = "ii \tacl\t2.3.2-2\nrc \told\t1.0\niU \thalf\t2.0\nii \tprometheus\t2.53.3+ds1-2\n"
    assert installed_packages.installed(listed) == {"acl": "2.3.2-2", "prometheus": "2.53.3+ds1-2"}


def test_what_an_installation_has_not_finished_is_told() -> None:
    listed = "ii \tacl\t2.3.2-2\nrc \told\t1.0\niU \tunpacked\t2.0\niF \thalf\t2.0\niW \tawaits\t2.0\nit \ttriggered\t2.0\nun \tnever\t\n"
    assert installed_packages.unfinished(listed) == ["awaits", "half", "triggered", "unpacked"]
