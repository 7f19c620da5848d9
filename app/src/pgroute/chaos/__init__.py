"""A workload that counts broken promises while its fleet is being broken.

Run it as ``pgroute chaos`` and freeze, stop, cut or promote servers meanwhile, or call
:func:`pgroute.chaos.run.run_chaos`. ``tally.py`` says what is noted, ``report.py`` what it means,
``workload.py`` how it is checked; ``client.py`` is what something else than a router must offer.
"""
