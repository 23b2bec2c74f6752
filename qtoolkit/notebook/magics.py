"""Offer the magics: each reads its line, calls the API and returns the record.

The API is imported when a magic runs, so that `%load_ext` loads no torch; and below the line that says that it runs,
since that takes seconds.
"""

from functools import partial
from os import PathLike
from typing import Any

from IPython.core.magic import line_cell_magic, line_magic, magics_class, needs_local_scope

from qtoolkit import records, requests
from qtoolkit.errors import ConfigError
from qtoolkit.notebook.cell import run_body, value_of
from qtoolkit.notebook.help import asks_for_help, helped_by
from qtoolkit.notebook.line_workers import with_count, with_workers
from qtoolkit.notebook.lines import MagicLine, read_line
from qtoolkit.notebook.magic_errors import short_errors
from qtoolkit.notebook.magics_base import MagicsBase, Names


@magics_class
class QuantizeMagics(MagicsBase):
    """Quantize models and see their memory, a line each. `%quantize?` tells of all options."""

    @helped_by("quantize")
    @needs_local_scope
    @line_cell_magic
    @short_errors
    def quantize(
        self, line: str, cell: str | None = None, local_ns: Names | None = None
    ) -> records.QuantizationReport | records.Plan:
        """Quantize a model and show what was done: memory before and after, what was skipped, where it was saved.

          %quantize org/name --method nf4 --output small --into q
          %quantize my-folder --method gptq --bits 4 --calibration book.txt --output small
          %quantize model --method int8 --into q          model is a variable
          report = %quantize org/name --output small      keep the record

          %%quantize org/name --output small
          method = "gptq"                                 the body is TOML
          bits = 4
          exclude = ["lm_head"]

        The model is a Hub id (org/name, org/name@revision, org/name:Q4_K_M) or the address of its page, a folder, a
        .gguf file, or a variable that holds one of these or a loaded model: write `%quantize model`, without braces.
        Quotes hold a path with blanks together.

        The record of the job is returned, not the model, so that Out[] does not keep it in memory: give --into,
        --output or both to keep the model. `%qplan` takes the same line and only tells whether it fits.
        """
        given = read_line("quantize", line, cell)
        name = given.words[0]
        config = given.configs[0]
        model = self._named(name, local_ns)
        if "plan" in given.options:
            return self._plan(given, model)
        options = given.options_of(requests.QuantizeRequest, partial(self._named, local_ns=local_ns))
        repo_id = given.options.get("push")
        card = given.options_of(requests.CardOptions, partial(self._named, local_ns=local_ns))
        progress = self._progress(f"{config.method} of {name}{given.unkept}")
        with progress as on_progress, with_workers(options, given.options) as options:
            from qtoolkit.api import publish, quantize
            from qtoolkit.publishing import check_push

            if repo_id:
                check_push(repo_id, model, options.get("revision"), **card)
            result = quantize(model, config, **options, on_progress=on_progress)
            if repo_id:
                publish(options["output"], repo_id, **card, on_progress=on_progress)
        if "into" in given.options:
            self.shell.push({given.options["into"]: result})
        return result.report

    @helped_by("qplan")
    @needs_local_scope
    @line_cell_magic
    @short_errors
    def qplan(self, line: str, cell: str | None = None, local_ns: Names | None = None) -> records.Plan:
        """Tell what `%quantize` with the same line would do, and whether it fits, without reading a weight.

          %qplan org/name --method nf4
          %qplan org/name --method gptq --machine t4      as if this were Colab's T4
          %qplan model                                    model is a variable
          plan = %qplan org/name

        It takes a second, and less than 5 MB of a model on the Hub: its config and the headers of its weight files. It
        shows the bytes before and after, the memory, disk and time of each phase, every layer that stays as it is and
        why; and where the job does not fit, what would. Options of the job are taken too, so that one line serves both.
        """
        given = read_line("qplan", line, cell)
        return self._plan(given, self._named(given.words[0], local_ns))

    @helped_by("qeval")
    @needs_local_scope
    @line_magic
    @short_errors
    def qeval(self, line: str, local_ns: Names | None = None) -> records.QualityReport:
        """Measure a model on a text: perplexity, and against its base what was lost; how fast it is.

          %qeval q --base org/name --text book.txt
          report = %qeval small --base org/name
          %qeval small --base org/name --workers 4        its windows on four processes

        The model is a variable, a folder, a Hub id or a .gguf file.
        """
        given = read_line("qeval", line)
        options = given.options_of(requests.EvaluateRequest, partial(self._named, local_ns=local_ns))
        name = given.words[0]
        progress = self._progress(f"evaluation of {name}")
        with progress as on_progress, with_workers(options, given.options) as options:
            from qtoolkit.api import evaluate

            return evaluate(self._named(name, local_ns), **options, on_progress=on_progress)

    @helped_by("qcompare")
    @needs_local_scope
    @line_cell_magic
    @short_errors
    def qcompare(self, line: str, cell: str | None = None, local_ns: Names | None = None) -> records.Comparison:
        """Quantize a model in several ways and measure each on one text: size, loss, speed, answers.

          %qcompare org/name --methods int8,nf4 --text book.txt --prompt "Once upon a time"
          comparison = %qcompare org/name --methods int8,nf4

          %%qcompare org/name --text book.txt
          prompts = ["Once upon a time"]           the body is TOML: prompts, and configs
          [[configs]]
          method = "nf4"
          double_quant = false

        The model is a variable, a folder, a Hub id or a .gguf file.
        """
        given = read_line("qcompare", line, cell)
        options = given.options_of(requests.CompareRequest, partial(self._named, local_ns=local_ns))
        name = given.words[0]
        with self._progress(f"comparison of {name}") as on_progress:
            from qtoolkit.api import compare

            return compare(self._named(name, local_ns), given.configs, **options, on_progress=on_progress)

    @helped_by("qfrontier")
    @needs_local_scope
    @line_cell_magic
    @short_errors
    def qfrontier(self, line: str, cell: str | None = None, local_ns: Names | None = None) -> records.Frontier:
        """Try recipes for a model, measure each, and show which lose least of all that are as small.

          %qfrontier org/name --memory "4 GB"
          frontier = %qfrontier org/name --size "90 MB" --size "120 MB"

          %%qfrontier org/name --text book.txt
          [[configs]]                              the body is TOML: a table for each recipe
          method = "gptq"
          bits = 3

        Without --methods and a body, the recipes are those that the methods name. The model is a variable, a folder, a
        Hub id or a .gguf file.
        """
        given = read_line("qfrontier", line, cell)
        options = given.options_of(requests.FrontierRequest, partial(self._named, local_ns=local_ns))
        name = given.words[0]
        with self._progress(f"frontier of {name}") as on_progress:
            from qtoolkit.api import frontier

            return frontier(self._named(name, local_ns), given.configs or None, **options, on_progress=on_progress)

    @helped_by("qmemory")
    @needs_local_scope
    @line_cell_magic
    def qmemory(
        self, line: str, cell: str | None = None, local_ns: Names | None = None
    ) -> records.MemoryReport | records.PeakMemory:
        """Memory of a model, or of whatever a cell does.

          %qmemory q            bytes that a model takes; q is a variable or an expression
          %%qmemory             run the cell, and tell the most memory that it needed

        Both return the record; sizes in it are whole numbers in bytes.
        """
        if cell is None or asks_for_help(line):
            return self._memory_of(line, local_ns)
        from qtoolkit.api import measure_peak

        self._refuse_words(line, "%%qmemory")
        with measure_peak() as peak:
            run_body(self.shell, cell)
        return peak.report

    @helped_by("qconvert")
    @needs_local_scope
    @line_magic
    @short_errors
    def qconvert(self, line: str, local_ns: Names | None = None) -> records.Conversion:
        """Write a quantized model in another format with the same codes; `qt.convert` in a line.

          %qconvert small mlx small-mlx
          conversion = %qconvert someone/model-AWQ compressed-tensors for-vllm --for vllm

        First the model (folder, Hub id or variable), then a format of `qt.available_formats()`, then the new folder.
        """
        given = read_line("qconvert", line)
        name, stored_as, folder = given.words
        options = given.options_of(requests.ConvertRequest, partial(self._named, local_ns=local_ns))
        progress = self._progress(f"{name} to {stored_as}")
        with progress as on_progress, with_workers(options, given.options) as options:
            from qtoolkit.api import convert

            return convert(self._named(name, local_ns), stored_as, folder, **options, on_progress=on_progress)

    @helped_by("qrepair")
    @needs_local_scope
    @line_magic
    @short_errors
    def qrepair(self, line: str, local_ns: Names | None = None) -> records.Repair:
        """Compute an adapter that gives a quantized model back some of what it lost; `qt.repair` in a line.

          %qrepair small org/name small-repair
          repair = %qrepair q org/name small-repair --rank 16 --calibration book.txt

        First the quantized model, which a variable may hold; then what it was made from; then the folder that is made.
        """
        given = read_line("qrepair", line)
        name, base, folder = given.words
        options = given.options_of(requests.RepairRequest, partial(self._named, local_ns=local_ns))
        with self._progress(f"repair of {name}") as on_progress:
            from qtoolkit.api import repair

            model, original = self._named(name, local_ns), self._named(base, local_ns)
            return repair(model, original, folder, **options, on_progress=on_progress)

    @helped_by("qmerge")
    @needs_local_scope
    @line_magic
    @short_errors
    def qmerge(self, line: str, local_ns: Names | None = None) -> records.QuantizationReport:
        """Make one quantized model of a quantized model and a LoRA adapter; `qt.merge` in a line.

          %qmerge small my-adapter --output merged
          %qmerge q my-adapter --base org/name --config recipe --text held-out.txt --into merged
          %qmerge small my-adapter --into-codes --output merged

        First the quantized model: a folder, a Hub id, or a variable; then the folder of the adapter. A variable holds
        the config.
        """
        given = read_line("qmerge", line)
        name, adapter = given.words
        options = given.options_of(requests.MergeRequest, partial(self._named, local_ns=local_ns))
        with self._progress(f"{name} with {adapter}") as on_progress:
            from qtoolkit.api import merge

            result = merge(self._named(name, local_ns), adapter, **options, on_progress=on_progress)
        if "into" in given.options:
            self.shell.push({given.options["into"]: result})
        return result.report

    @helped_by("qverify")
    @needs_local_scope
    @line_magic
    @short_errors
    def qverify(self, line: str, local_ns: Names | None = None) -> records.Verification:
        """Prove that a saved model is what it says, and works elsewhere, check by check; `qt.verify` in a line.

          %qverify small
          %qverify small --for vllm                       also: would vLLM load it
          verification = %qverify my-repair --base small  an adapter and its model

        The folder is one that `%quantize --output` wrote, or any other with a model; a variable may hold its name. It
        is loaded once more, in a process without network, which takes that memory again. Nothing leaves this machine.
        """
        given = read_line("qverify", line)
        named = partial(self._named, local_ns=local_ns)
        folder, options = named(given.words[0]), given.options_of(requests.VerifyRequest, named)
        if not isinstance(folder, str | PathLike):
            held = f"%qverify takes a folder, and the variable {given.words[0]} holds {type(folder).__name__}"
            raise ConfigError(
                f"{held}: give the folder that it was saved in; `{given.words[0]}.save(FOLDER)` makes one"
            )
        with self._progress(f"verification of {folder}") as on_progress:
            from qtoolkit.api import verify

            return verify(folder, **options, on_progress=on_progress)

    @helped_by("qpublish")
    @needs_local_scope
    @line_magic
    @short_errors
    def qpublish(self, line: str, local_ns: Names | None = None) -> records.Publication:
        """Verify a saved model, and put it on the Hub with a card, in one commit; `qt.publish` in a line.

          %qpublish small me/small --dry-run              only show files, sizes and the card
          %qpublish small me/small --quality report       private; report = %qeval ...

        First the folder that `%quantize --output` wrote, then the repository. The token is the one of `hf auth login`,
        the variable HF_TOKEN, or Colab's secret of that name.
        """
        given = read_line("qpublish", line)
        folder, repo_id = given.words
        options = given.options_of(requests.PublishRequest, partial(self._named, local_ns=local_ns))
        for name, magic in (("quality", "qeval"), ("frontier", "qfrontier")):
            given_name = options.get(name)
            if isinstance(given_name, str):
                problem = f"--{name} takes a variable, and none is called {given_name!r}"
                raise ConfigError(f"{problem}: `{given_name} = %{magic} ...`")
        with self._progress(f"{folder} to {repo_id}") as on_progress:
            from qtoolkit.api import publish

            return publish(folder, repo_id, **options, on_progress=on_progress)

    @helped_by("qpanel")
    @needs_local_scope
    @line_magic
    @short_errors
    def qpanel(self, line: str, local_ns: Names | None = None) -> Any:
        """Open the panels: choose a model, see whether it fits, quantize, compare and publish by hand.

          %qpanel
          %qpanel org/name --only quantize

        The model is a Hub id, a folder, a .gguf file, or a variable that holds one of these.
        """
        from qtoolkit.notebook.panels import panel

        given = read_line("qpanel", line)
        model = self._named("".join(given.words), local_ns)
        return panel(model, only=given.options.get("only"))

    @helped_by("qdoctor")
    @line_magic
    @short_errors
    def qdoctor(self, line: str) -> records.Doctor:
        """Describe this machine for a bug report: versions, devices, free memory and disk, methods that run here."""
        from qtoolkit.api import doctor

        self._refuse_words(line, "%qdoctor")
        return doctor()

    @short_errors
    def _memory_of(self, line: str, local_ns: Names | None) -> records.MemoryReport:
        from qtoolkit.api import measure_memory

        return measure_memory(value_of(self.shell, line, local_ns))

    def _plan(self, line: MagicLine, model: Any) -> records.Plan:
        with self._progress(f"plan of {line.words[0]}"):
            from qtoolkit.api import plan

            return plan(model, line.configs[0], **with_count(line.options_of(requests.PlanRequest)))
