"Bad input through the command line: exit status 1, one line that names the value and the way out, nothing on standard output, nothing written, no traceback."
import json
import sys

import pytest

from autoscale.cli import main
from autoscale.mixture import Mixture, load_mixture, save_mixture
from autoscale.runs import RunTable, sample_run_table, write_run_table

TABLE = sample_run_table()


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    "Call the command in a folder of its own, in this process: (exit status, standard output, standard error)."
    monkeypatch.chdir(tmp_path)

    def call(*args):
        monkeypatch.setattr(sys, "argv", ["autoscale", *map(str, args)])
        with pytest.raises(SystemExit) as end: main()
        return (end.value.code or 0, *capfd.readouterr())
    return call


@pytest.fixture
def refused(run, tmp_path):
    "The line of a refusal, after a look at everything else."
    def call(*args):
        before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
        status, out, err = run(*args)
        assert (status, out) == (1, "") and err.startswith("autoscale: ") and err.count("\n") == 1 and err.endswith("\n"), err
        assert "Traceback" not in err and {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
        return err
    return call


@pytest.fixture
def lines(tmp_path):
    "The sample as lines of CSV, in runs.csv too."
    write_run_table(tmp_path / "runs.csv", TABLE)
    return (tmp_path / "runs.csv").read_text().splitlines()


def with_cell(lines, column, value, row=3):
    cells = lines[row].split(",")
    cells[lines[0].split(",").index(column)] = value
    return "\n".join([*lines[:row], ",".join(cells), *lines[row + 1:], ""])


def without(lines, prefix):
    header = lines[0].split(",")
    return "\n".join(",".join(cell for name, cell in zip(header, line.split(",")) if not name.startswith(prefix)) for line in lines) + "\n"


BAD_TABLES = {
    "no losses": (lambda lines: without(lines, "loss."), "add their losses"),
    "no tokens": (lambda lines: without(lines, "tokens."), "needs the columns run, tokens.<domain>"),
    "no names": (lambda lines: without(lines, "run"), "there is no column run, with a name for each run; add it; found tokens.wikipedia"),
    "misspelt column": (lambda lines: "\n".join([lines[0].replace("tokens.c4", "token.c4"), *lines[1:], ""]), "rename it to tokens.c4"),
    "negative tokens": (lambda lines: with_cell(lines, "tokens.c4", "-5"), "tokens.c4 is -5"),
    "NaN": (lambda lines: with_cell(lines, "loss.c4", "nan"), "loss.c4 is 'nan', not a number; mend it or leave the run out"),
    "infinite": (lambda lines: with_cell(lines, "loss.c4", "inf"), "loss.c4 is inf; leave the run out, or give its loss"),
    "text": (lambda lines: with_cell(lines, "loss.c4", "abc"), "loss.c4 is 'abc'"),
    "a hole": (lambda lines: with_cell(lines, "loss.c4", ""), "loss.c4 is ''"),
    "the same run twice": (lambda lines: "\n".join([*lines, lines[4], ""]), "stands in the table twice; give each run a name of its own"),
    "nothing": (lambda lines: "", "is empty"),
    "a header alone": (lambda lines: lines[0] + "\n", "without runs; give it a row for each"),
    "cut off": (lambda lines: "\n".join(lines)[:-3], "looks cut off"),
    "another delimiter": (lambda lines: "\n".join(lines).replace(",", "|") + "\n", "separated by '|', which is not known; save it with commas, semicolons or tabs"),
    "spaces": (lambda lines: "\n".join(lines).replace(" ", "").replace(",", "  ") + "\n", "separated by spaces, which is not known; save it with commas, semicolons or tabs"),
    "a size that is none": (lambda lines: with_cell(lines, "tokens.c4", "0.3G"), "tokens.c4 is '0.3G', not a number"),
    "a size that is not whole": (lambda lines: with_cell(lines, "tokens.c4", "0.0003k"), "tokens.c4 is '0.0003k', not a number"),
    "binary": (lambda lines: bytes(range(256)) * 40, "save it as UTF-8"),
    "a spreadsheet": (lambda lines: b"PK\3\4" + bytes(200), "save the table as CSV"),
}


@pytest.mark.parametrize("bad", BAD_TABLES)
def test_bad_tables(refused, lines, tmp_path, bad):
    make, says = BAD_TABLES[bad]
    made = make(lines)
    (tmp_path / "bad.csv").write_bytes(made if isinstance(made, bytes) else made.encode())
    said = refused("project", "bad.csv", "--to", "10M", "--json", "w.json")
    assert says in said and "bad.csv: " in said


@pytest.mark.parametrize("command", [["fit"], ["fit", "--held-out"], ["project", "--to", "10M"], ["project", "--to", "10M", "--law", "ddo"], ["report", "--to", "10M", "-o", "page.html"]], ids=" ".join)
def test_every_command_reads_with_the_same_care(refused, lines, tmp_path, command):
    (tmp_path / "bad.csv").write_text(with_cell(lines, "tokens.books", "-7"))
    (tmp_path / "folder").mkdir()
    for path, says in (("bad.csv", "tokens.books is -7"), ("none.csv", "none.csv: there is no such run table"), ("folder", "a folder without runs")):
        assert says in refused(command[0], path, *command[1:])
    assert "tokens.books is -7" in refused("compare", "bad.csv", saved(tmp_path), "--to", "10M")


def saved(folder, domains=TABLE.domains, name="mixture.json"):
    save_mixture(folder / name, Mixture.uniform(domains, 10**7))
    return name


def test_other_delimiters_that_are_meant_are_read(run, lines, tmp_path):
    for delimiter in ";\t":
        (tmp_path / "runs.csv").write_text("\n".join(lines).replace(",", delimiter) + "\n")
        status, _, _ = run("project", "runs.csv", "--to", "10M", "--law", "bimix", "--json", f"{ord(delimiter)}.json")
        assert status == 0 and load_mixture(tmp_path / f"{ord(delimiter)}.json").total == 10**7
    assert load_mixture(tmp_path / "9.json") == load_mixture(tmp_path / "59.json")


def in_words(tokens): return f"{tokens / 1000:.3f}k"  # 24576 -> 24.576k


def test_sizes_are_read_wherever_a_run_table_has_one(run, lines, tmp_path):
    "Cells like 24.576k, in our own table, under a mapping, without one, and in two tables, give the very weights that 24576 gives."
    import numpy as np
    header, *rows = [line.split(",") for line in lines]
    write = lambda name, header, rows: (tmp_path / name).write_text("\n".join(",".join(map(str, row)) for row in [header, *rows]) + "\n")
    write("words.csv", header, [[in_words(int(cell)) if name.startswith("tokens.") else cell for name, cell in zip(header, row)] for row in rows])
    export = ["Name", *(f"seen.{d}" for d in TABLE.domains), "n_params", *(f"eval/{d}/loss" for d in TABLE.validation)]
    write("mapped.csv", export, [[r, *map(in_words, t), "0.137M", *loss] for r, t, loss in zip(TABLE.runs, TABLE.tokens, TABLE.losses)])
    (tmp_path / "columns.json").write_text('{"run": "Name", "tokens": "seen.{domain}", "params": "n_params", "loss": "eval/{domain}/loss"}')
    weights, total = TABLE.tokens / TABLE.tokens.sum(1, keepdims=True), TABLE.tokens.sum(1)
    shares = ["name", *(f"w/{d}" for d in TABLE.domains), "total_tokens"]
    for name, say in (("plain", int), ("sizes", in_words)):
        write(f"guessed-{name}.csv", [*shares, *(f"eval/{d}/loss" for d in TABLE.validation)], [[r, *w, say(n), *loss] for r, w, n, loss in zip(TABLE.runs, weights, total, TABLE.losses)])
        write(f"mixtures-{name}.csv", shares, [[r, *w, say(n)] for r, w, n in zip(TABLE.runs, weights, total)])
    write("metrics.csv", ["name", *(f"{d}_loss" for d in TABLE.validation)], [[r, *loss] for r, loss in zip(TABLE.runs, TABLE.losses)])
    pair = ["--metrics", "metrics.csv", "--tokens", "total_tokens"]
    found = {}
    for args in (["runs.csv"], ["words.csv"], ["mapped.csv", "--columns", "columns.json"], ["guessed-plain.csv"], ["guessed-sizes.csv"], ["mixtures-plain.csv", *pair], ["mixtures-sizes.csv", *pair]):
        status, _, said = run("project", *args, "--to", "10M", "--law", "bimix", "--json", "w.json")
        assert status == 0, said
        found[args[0]] = json.loads((tmp_path / "w.json").read_text())["tokens"]
    assert found["words.csv"] == found["mapped.csv"] == found["runs.csv"] and found["guessed-sizes.csv"] == found["guessed-plain.csv"] and found["mixtures-sizes.csv"] == found["mixtures-plain.csv"]
    assert np.allclose(found["guessed-plain.csv"], found["runs.csv"], rtol=1e-3)


def test_a_dictionary_without_entries_is_a_column_without_a_word(run, tmp_path):
    "As pandas writes the summaries of runs that failed at once, all of them."
    rows = [f'{name},finished,"{{\'w.web\': {w}, \'w.code\': {1 - w}, \'total_tokens\': {n}}}",{{}},{3 - w / 4},{2 + w / 4}' for name, w, n in (("a", .5, 10**6), ("b", .75, 10**6), ("c", .25, 10**6), ("d", .5, 2 * 10**6))]
    (tmp_path / "frame.csv").write_text("\n".join(["name,state,config,summary,eval/web/loss,eval/code/loss", *rows, ""]))
    status, out, err = run("project", "frame.csv", "--to", "10M", "--law", "log-linear")
    assert status == 0 and "| web" in out and "Traceback" not in err


def test_one_scale_is_refused_or_said(refused, run, tmp_path):
    some = slice(0, 13)
    write_run_table(tmp_path / "one.csv", RunTable(TABLE.runs[some], TABLE.domains, TABLE.validation, TABLE.tokens[some], TABLE.losses[some]))
    assert "needs a second one at another scale" in refused("project", "one.csv", "--to", "10M", "--law", "ddo", "--json", "w.json")
    for command in (["project", "one.csv", "--to", "10M"], ["compare", "one.csv", saved(tmp_path), "--to", "10M", "--law", "joint"]):
        status, out, _ = run(*command)
        assert status == 0 and "how the best mixture moves with the budget is assumed, not measured" in out


def test_a_column_that_is_missing_on_one_side_is_said(run, lines, tmp_path):
    (tmp_path / "runs.csv").write_text(without(lines, "tokens.c4"))
    _, out, _ = run("project", "runs.csv", "--to", "10M", "--law", "bimix")
    assert "note: judged and not trained on, there are no tokens of it: c4" in out and "| c4 " not in out


@pytest.mark.parametrize("args, says", [
    (["--to", "1k"], "the target of 1k tokens is below the smallest run, 65.54k"), (["--to", "1k", "--law", "ddo"], "below the smallest scale"),
    (["--to", "lots"], "'lots' is not a number of tokens; write it like 0.3B"), (["--to", "-3"], "'-3' is not a number of tokens"), (["--to", "1.5"], "not a positive whole number"),
    (["--to", "10M", "--law", "jiont"], "did you mean joint?"), (["--to", "10M", "--law", "magic"], "'magic' is not known; choose joint, ddo"),
    (["--to", "10M", "--objective", "nat"], "choose nats, perplexity, one of the validation domains wikipedia"), (["--to", "10M", "--objective", "web=1"], "objective 'web' is not known"),
    (["--to", "10M", "--objective", "books=-1"], "each is a number >= 0"), (["--to", "10M", "--objective", "books=x"], "write weights like web=2"), (["--to", "10M", "--objective", "books="], "write name=value pairs"),
    (["--to", "10M", "--max-epochs", "4"], "needs --available"), (["--to", "10M", "--target-floor", "2"], "--target-floor 2 is 2 times the uniform share of every domain; give 0 to 1"), (["--to", "10M", "--law", "ddo", "--floor", "nan"], "--floor nan is"), (["--to", "10M", "--floor", "0.2"], "use --target-floor"),
    (["--to", "10M", "--columns", "none.json"], "none.json"), (["--to", "10M", "--metrics", "losses.csv"], "--tokens")], ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_bad_arguments(refused, lines, args, says):
    assert says in refused("project", "runs.csv", *args, "--json", "w.json")


@pytest.mark.parametrize("command", ["project", "compare", "report"])
def test_epochs_need_to_know_what_there_is(refused, lines, tmp_path, command):
    mixtures = [saved(tmp_path)] if command == "compare" else []
    assert "--max-epochs 4 needs --available FILE.json, the tokens there are of each domain" in refused(command, "runs.csv", *mixtures, "--to", "10M", "--max-epochs", "4")


@pytest.mark.parametrize("command", ["project", "compare", "report"])
def test_bad_available(refused, lines, tmp_path, command):
    saved(tmp_path)
    enough = {d: "3M" for d in TABLE.domains}
    for content, says in (({**enough, "wbe": 5}, "'wbe' is not one of the domains wikipedia"), ({"c4": "3M"}, "there.json: no available tokens are given for wikipedia, github"), ({**enough, "c4": -5}, "-5 is not a number of tokens"),
                          ([1], "is not of the form"), ({}, "is not of the form")):
        (tmp_path / "there.json").write_text(json.dumps(content))
        assert says in refused(command, "runs.csv", *(["mixture.json"] if command == "compare" else []), "--to", "10M", "--available", "there.json")
    (tmp_path / "there.json").write_text('{"c4": ')
    assert "cannot be read as JSON" in refused(command, "runs.csv", *(["mixture.json"] if command == "compare" else []), "--to", "10M", "--available", "there.json")


def test_mixtures_of_other_domains(refused, lines, tmp_path):
    saved(tmp_path, ["web", "code"], "other.json"); saved(tmp_path, TABLE.domains[1:], "fewer.json")
    assert "mixture 'other' is of other domains than the runs: web, code are not among wikipedia" in refused("compare", "runs.csv", "other.json", "--to", "10M")
    assert "mixture 'fewer' is of other domains than the runs: it lacks wikipedia" in refused("compare", "runs.csv", "fewer.json", "--to", "10M")
    assert "below the smallest run" in refused("compare", "runs.csv", saved(tmp_path), "--to", "1k", "--law", "bimix")
    assert "predicts a mixture and no losses" in refused("compare", "runs.csv", "mixture.json", "--to", "10M", "--law", "ddo")
    (tmp_path / "paths.json").write_text('{"web": "/data"}')
    for paths in ("web=/data", "paths.json"): assert "a path is given for web, which the mixture does not have" in refused("export", "mixture.json", "--framework", "nemo", "--paths", paths)
    (tmp_path / "there.json").write_text('{"web": "1B"}')
    assert "'web' is not one of the domains" in refused("export", "mixture.json", "--framework", "nemo", "--available", "there.json")


def test_a_mixture_is_compared_once(refused, lines, tmp_path):
    saved(tmp_path); saved(tmp_path, name="unimax")
    assert "mixture.json stands there twice; give each mixture once" in refused("compare", "runs.csv", "mixture.json", "./mixture.json", "--to", "10M")
    assert "unimax stands there twice" in refused("compare", "runs.csv", "unimax", "--to", "10M")


def test_mixture_files(refused, lines, tmp_path):
    text = (tmp_path / saved(tmp_path)).read_text()
    for damaged, says in ((text[:90], "not complete JSON"), ("", "not complete JSON"), ("[1]", "no list of `domains`"), (text.replace("10000000", "10000001"), "total_tokens is 10,000,001"), ("\0\1", "not complete JSON"), ('{"domains": ["a"], "tokens": [-1]}', "'a' has -1 tokens")):
        (tmp_path / "cut.json").write_text(damaged)
        for command in (["export", "cut.json", "--framework", "nemo", "-o", "configs"], ["compare", "runs.csv", "cut.json", "--to", "10M"]): assert "cut.json: " in (said := refused(*command)) and says in said
    assert "none.json: cannot be read (No such file or directory); give a mixture file" in refused("export", "none.json", "--framework", "nemo")
    for command in (["export", "runs.csv", "--framework", "nemo"], ["compare", "runs.csv", "runs.csv", "--to", "10M"]): assert "runs.csv is a run table, not a mixture; make one of it: autoscale project runs.csv --to ... --json mixture.json" in refused(*command)
    (tmp_path / "folder").mkdir()
    assert "folder: cannot be read (Is a directory)" in refused("export", "folder", "--framework", "nemo")


def test_frameworks_and_paths(refused, lines, tmp_path):
    saved(tmp_path)
    assert "framework 'megatrn' is not known; did you mean megatron-lm?" in refused("export", "mixture.json", "--framework", "megatrn", "-o", "configs")
    assert "did you mean nemo?" in refused("design", "d.csv", "--domains", "a,b", "--tokens", "1M", "--configs", "configs", "--framework", "nmo")
    assert "add --configs DIR" in refused("design", "d.csv", "--domains", "a,b", "--tokens", "1M", "--framework", "nemo")
    assert "--framework NAME" in refused("export", "mixture.json") and "MIXTURE.json" in refused("export")
    assert "give each domain once" in refused("export", "mixture.json", "--framework", "nemo", "--paths", "books=a,books=b")
    assert 'should hold {"domain": "path"}' in refused("export", "mixture.json", "--framework", "nemo", "--paths", "none.json")
    assert "mean tokens of a document" in (said := refused("export", "mixture.json", "--framework", "lingua")) and '--tokens-per-document FILE.json), like {"wikipedia": 900, ...}' in said
    assert "mean tokens of a document" in refused("export", "mixture.json", "--framework", "hf-datasets")
    (tmp_path / "mean.json").write_text('{"books": 900}')
    for command in (["export", "mixture.json"], ["design", "d.csv", "--domains", "wikipedia,c4,books", "--tokens", "1M", "--configs", "configs"]):
        (tmp_path / "mean.json").write_text('{"books": 900}')
        assert "for wikipedia, c4" in refused(*command, "--framework", "hf-datasets", "--tokens-per-document", "mean.json")
        for value, says in ((1e-300, "1e-300 tokens per document; a number of at least 1 is needed"), (0, "0 tokens per document"), ("many", "'many' is not a number of tokens; write it like 0.3B"), (None, "None tokens per document"), (float("nan"), "nan tokens per document")):
            (tmp_path / "mean.json").write_text(json.dumps({d: 900 for d in TABLE.domains} | {"c4": value}))
            assert "'c4'" in (said := refused(*command, "--framework", "lingua", "--tokens-per-document", "mean.json")) and says in said
    assert "--tokens-per-document is for the files of each run; add --configs DIR" in refused("design", "d.csv", "--domains", "a,b", "--tokens", "1M", "--tokens-per-document", "mean.json")
    assert "--tokens-per-document is for a trainer's own files; add --framework NAME" in refused("design", "d.csv", "--domains", "a,b", "--tokens", "1M", "--configs", "configs", "--tokens-per-document", "mean.json")
    assert "'many' is not a number of tokens" in refused("design", "d.csv", "--domains", "a,b", "--tokens", "1M", "--multiple", "many")


@pytest.mark.parametrize("out", ["file/below", "folder"])
@pytest.mark.parametrize("command", [["project", "runs.csv", "--to", "10M", "--law", "bimix", "--json"], ["fit", "runs.csv", "--json"], ["export", "mixture.json", "--framework", "nemo", "--json"],
                                     ["compare", "runs.csv", "mixture.json", "--to", "10M", "--law", "bimix", "--json"], ["corpus", "list", "--json"], ["doctor", "--json"], ["design", "--domains", "a,b", "--tokens", "1M"]], ids=lambda c: c[0])
def test_places_that_cannot_be_written(refused, lines, tmp_path, command, out):
    saved(tmp_path); (tmp_path / "file").write_text("a file"); (tmp_path / "folder").mkdir()
    said = refused(*command, out)
    assert ("file" if out.startswith("file") else "folder: ") in said and ("choose another" in said or "give a file, not a folder" in said)


def test_what_cannot_be_written_to_a_folder(refused, lines, tmp_path):
    (tmp_path / "file").write_text("a file")
    assert "file/page.html: cannot be written (File exists); choose another" in refused("report", "runs.csv", "--to", "10M", "--law", "bimix", "-o", "file/page.html")
    assert "file/configs: cannot be written" in refused("export", saved(tmp_path), "--framework", "nemo", "-o", "file/configs")
    assert "file/configs: Not a directory" in refused("design", "d.csv", "--domains", "a,b", "--tokens", "1M", "--configs", "file/configs") and not (tmp_path / "d.csv").exists()


def test_designs_and_stores(refused, lines, tmp_path):
    design = ["design", "d.csv", "--domains"]
    assert "'a' is named twice" in refused(*design, "a,a", "--tokens", "1M") and "each needs a name" in refused(*design, "a,,b", "--tokens", "1M")
    assert "'much' is not a number of tokens" in refused(*design, "a,b", "--tokens", "much") and "factor 1" in refused(*design, "a,b", "--tokens", "1M", "--factor", "1")
    (tmp_path / "there.json").write_text('{"c": "1B"}')
    assert "'c' is not one of the domains a, b" in refused(*design, "a,b", "--tokens", "1M", "--available", "there.json", "--to", "1B")
    (tmp_path / "folder").mkdir()
    for place in ("nowhere", "folder"): assert "not a token store" in refused("corpus", "info", place)
    said = refused("corpus", "info", "runs.csv")
    assert "not the manifest of a token store" in said and "delete" not in said  # it is somebody's table
    assert "no preset 'eight'" in refused("corpus", "build", "store", "--domains", "eight") and "no files match" in refused("corpus", "build", "store", "--domains", "a=nowhere/*.txt")
    assert "'lots' is not a number of tokens" in refused("corpus", "build", "store", "--domains", "stdlib", "--vocab-size", "lots")
    assert "nope.yml: cannot be read as YAML" in refused("sweep", "runs.csv", "--store", "nowhere", "--runs", "records", "--out", "o.csv", "--settings", "nope.yml")
    assert "not inside a checkout" in refused("reproduce", "--profile", "nope")


def test_a_hundred_thousand_runs_are_read_and_the_answer_says_what_was_done(run, tmp_path):
    import numpy as np
    rng, n, domains = np.random.default_rng(0), 100_000, [f"domain{i}" for i in range(7)]
    tokens = rng.dirichlet(np.full(7, 2.), n) * np.exp(rng.uniform(np.log(1e8), np.log(1e9), n))[:, None]
    losses = 2 + 2 * (tokens / 1e8 + .5) ** -.25 + rng.normal(0, .01, (n, 7))
    rows = "\n".join(f"r{i}," + ",".join(f"{v:.0f}" for v in tokens[i]) + "," + ",".join(f"{v:.4f}" for v in losses[i]) for i in range(n))
    (tmp_path / "many.csv").write_text(f"run,{','.join(f'tokens.{d}' for d in domains)},{','.join(f'loss.{d}' for d in domains)}\n{rows}\n")
    status, out, _ = run("project", "many.csv", "--to", "10B", "--law", "bimix", "--json", "w.json")
    assert status == 0 and "note: 100,000 runs: laws are fitted to 1,000 of them" in out and load_mixture(tmp_path / "w.json").total == 10**10
    assert np.allclose(load_mixture(tmp_path / "w.json").weights, 1 / 7, atol=.05)  # the domains are exchangeable


def test_a_file_nested_too_deeply(tmp_path, refused):
    (tmp_path / "deep.json").write_text("[" * 200_000)
    assert "nested too deeply" in refused("export", "deep.json", "--framework", "nemo")


def test_configs_of_another_design_are_not_mixed_with_these(run, refused):
    design = lambda names: ("design", "d.csv", "--domains", names, "--tokens", "300k", "--configs", "configs")
    assert run(*design("a,b,c"))[0] == 0
    assert "not of this design" in refused(*design("a,b"))
