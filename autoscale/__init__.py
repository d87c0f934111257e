"""How many tokens from each data source, at the scale you will really train (AutoScale; Kang et al., COLM 2025).

From runs that were trained anywhere to a mixture that another trainer reads, in ten lines:

    import autoscale as au

    runs = au.read_runs("sample")  # or a file or folder of your own: CSV, Parquet, exports of W&B, Trackio, TensorBoard
    print(au.held_out_laws(runs))  # nats by which each law misses runs that it did not see
    best = au.fit_joint(runs).optimum(au.parse_tokens("10M"))  # weights with intervals, a certificate, notes
    print(dict(zip(runs.domains, best.weights.round(4).tolist())), *best.notes, sep="\\n")
    for row in au.compare_mixtures(runs, {"best": best.mixture, "uniform": au.Mixture.uniform(runs.domains, 10_000_000)}):
        print(row["mixture"], row["predicted"]["joint"])
    au.save_mixture("mixture.json", best.mixture)
    au.export_mixture(best.mixture, "olmo-core", paths={d: f"/data/{d}/*.npy" for d in runs.domains}).write("config")
    au.make_report(runs, best.mixture.total).save("report.html")

Names are imported when they are first asked for, so `import autoscale` loads no numpy. `__all__` is the public interface that the version
number speaks of; what the modules hold besides may change with any minor version. Every refusal is an `InputError`: one line with the value
and the way out.
"""
__version__ = "0.2.0"

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .baselines import natural, unimax
    from .ddo import DDOLaw, Design, Optimum, find_designs, fit_ddo
    from .export import FRAMEWORKS, Export, Framework, export_mixture
    from .imports import read_runs
    from .joint import LAWS, JointLaw, compare_mixtures, fit_joint, held_out_laws
    from .laws import Law, LawOptimum
    from .mixture import (InputError, Interval, Mixture, format_tokens, load_available, load_mixture, mixture_from_dict, mixture_to_dict,
                          parse_tokens, save_mixture, with_epochs)
    from .projection import Projection, project_runs
    from .report import Report, make_report
    from .runs import RunTable, read_run_table, sample_run_table, write_run_table
    from .sweep import design_table

__all__ = [
    "InputError", "Interval", "Mixture", "format_tokens", "load_available", "load_mixture", "mixture_from_dict", "mixture_to_dict",
    "parse_tokens", "save_mixture", "with_epochs",
    "RunTable", "read_run_table", "read_runs", "sample_run_table", "write_run_table", "design_table",
    "DDOLaw", "Design", "Optimum", "Projection", "find_designs", "fit_ddo", "project_runs",
    "LAWS", "JointLaw", "Law", "LawOptimum", "compare_mixtures", "fit_joint", "held_out_laws", "natural", "unimax",
    "FRAMEWORKS", "Export", "Framework", "export_mixture", "Report", "make_report",
]

_homes = {  # the same names once more, for the interpreter: the imports above are for type checkers and editors only
    "mixture": "InputError Interval Mixture format_tokens load_available load_mixture mixture_from_dict mixture_to_dict parse_tokens save_mixture with_epochs",
    "runs": "RunTable read_run_table sample_run_table write_run_table",
    "imports": "read_runs",
    "sweep": "design_table",
    "ddo": "DDOLaw Design Optimum find_designs fit_ddo",
    "projection": "Projection project_runs",
    "laws": "Law LawOptimum",
    "joint": "LAWS JointLaw compare_mixtures fit_joint held_out_laws",
    "baselines": "natural unimax",
    "export": "FRAMEWORKS Export Framework export_mixture",
    "report": "Report make_report",
}
_home = {name: module for module, names in _homes.items() for name in names.split()}

if not TYPE_CHECKING:  # with this in sight, a type checker would let every misspelt name pass
    def __getattr__(name):
        if name not in _home: raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(_import_module(f".{_home[name]}", __name__), name)
        return value

def __dir__() -> list[str]: return sorted({*globals(), *__all__})
