"""What is wrong with a fleet, and what to do about it: ``pgroute doctor``.

asking    talks to servers and brings facts      (I/O, no judgement)
facts     what was seen
judging   from facts to findings, per subject    (pure)
checks    all checks under their names
report    for people and for machines
"""

from pgroute.doctor.asking.fleet import ask
from pgroute.doctor.checks import CHECKS, Check, judge
from pgroute.doctor.findings import Finding, Verdict
from pgroute.doctor.limits import Limits
from pgroute.doctor.report import Report

__all__ = ["CHECKS", "Check", "Finding", "Limits", "Report", "Verdict", "ask", "judge"]
