"""Change one formula of the model at a time and see that a test notices: `make mutants`.

Each mutant is a copy of the project with one line changed; the tests of the model run on it and must fail. A mutant
that survives means that a formula could be wrong without anybody noticing.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
TESTS = (
    "test_delta_algebra.py",
    "test_delta_op.py",
    "test_compress_op.py",
    "test_paper_parity.py",
    "test_language_model.py",
    "test_authors_knobs.py",
)


class Mutant(NamedTuple):
    """One wrong formula: the text that occurs once in the file, and what it becomes."""

    what: str
    file: str
    right: str
    wrong: str


MUTANTS = (
    Mutant("eps added instead of eps squared", "delta.py", "square + eps * eps", "square + eps"),
    Mutant("eps squared times d, as in the fused kernel", "delta.py", "eps * eps)", "eps * eps * raw.shape[-1])"),
    Mutant("direction not normalised", "delta.py", "k = raw / torch.sqrt(square + eps * eps).unsqueeze(-1)", "k = raw"),
    Mutant("gate in (0, 1)", "delta.py", "2.0 * torch.sigmoid(logit)", "torch.sigmoid(logit)"),
    Mutant("discrepancy with the wrong sign", "delta.py", "return v - readout(", "return readout("),
    Mutant("write-only instead of rewrite", "delta.py", "* discrepancy(exact, k, v.to(dtype))", "* v.to(dtype)"),
    Mutant("target not squashed", "delta_op.py", "if target_scale > 0:", "if target_scale < 0:"),
    Mutant(
        "target without its bias",
        "delta_op.py",
        "target_weight.to(dtype).T + target_bias.to(dtype)",
        "target_weight.to(dtype).T",
    ),
    Mutant(
        "gate from the target's input", "delta_op.py", "(context.to(dtype) @ gate", "(target_input.to(dtype) @ gate"
    ),
    Mutant(
        "readout after the rewrite",
        "delta_op.py",
        "read = delta.readout(state.to(dtype), k)",
        "read = delta.readout(delta.rewrite(state, k, target, beta).to(dtype), k)",
    ),
    Mutant(
        "target from the other input",
        "residual.py",
        '{"context": seen.context, "compressed": seen.compressed, "output": output}',
        '{"context": seen.compressed, "compressed": seen.context, "output": output}',
    ),
    Mutant(
        "two-layer gate without tanh",
        "generators.py",
        "torch.tanh(hidden(context))",
        "hidden(context)",
    ),
    Mutant(
        "channel taps reversed",
        "compress.py",
        "outputs = torch.arange(channels, device=self.read.device) - places.unsqueeze(-1)",
        "outputs = torch.arange(channels, device=self.read.device) + places.unsqueeze(-1)",
    ),
    Mutant("channel padding on the other side", "compress.py", "left = (taps - 1) // 2", "left = taps // 2"),
    Mutant(
        "token taps reversed", "compress_op.py", "kernel.unsqueeze(1), groups", "kernel.flip(1).unsqueeze(1), groups"
    ),
    Mutant(
        "token compressor looks one token less far",
        "compress_op.py",
        "window = torch.cat([history, state], dim=1).flatten(2)",
        "window = F.pad(torch.cat([history, state], dim=1).flatten(2)[:, :-1], (0, 0, 1, 0))",
    ),
    Mutant(
        "state's axes in the other order",
        "compress_op.py",
        "torch.cat([history, state], dim=1).flatten(2)",
        "torch.cat([history, state], dim=1).transpose(2, 3).flatten(2)",
    ),
    Mutant(
        "embedding convolution's channels in the other order",
        "expand.py",
        "unflatten(-1, (-1, self.value_channels))",
        "unflatten(-1, (self.value_channels, -1)).transpose(-1, -2)",
    ),
    Mutant(
        "rotation the other way",
        "rope.py",
        "first * cos - second * sin, first * sin + second * cos",
        "first * cos + second * sin, second * cos - first * sin",
    ),
    Mutant(
        "rotation's exponent by half the dimensions", "rope.py", "/ max(1, self.rotated)", "/ max(1, self.rotated // 2)"
    ),
    Mutant(
        "last dimensions rotate",
        "rope.py",
        "first, second, rest = heads.split",
        "first, second, rest = heads.flip(-1).split",
    ),
    Mutant(
        "no rotation",
        "causal_attention.py",
        "query, key = self.rotary.rotate(query, tables), self.rotary.rotate(key, tables)\n",
        "pass\n",
    ),
    Mutant(
        "norm before rotation",
        "causal_attention.py",
        "        query, key = self.rotary.rotate(query, tables), self.rotary.rotate(key, tables)\n        if self.query_norm is not None and self.key_norm is not None:\n            query, key = self.query_norm(query), self.key_norm(key)\n",
        "        if self.query_norm is not None and self.key_norm is not None:\n            query, key = self.query_norm(query), self.key_norm(key)\n        query, key = self.rotary.rotate(query, tables), self.rotary.rotate(key, tables)\n",
    ),
    Mutant(
        "no norm of queries and keys",
        "causal_attention.py",
        "query, key = self.query_norm(query), self.key_norm(key)",
        "pass",
    ),
    Mutant(
        "shift mixes the other way round",
        "causal_attention.py",
        "share * before + (1 - share) * now",
        "(1 - share) * before + share * now",
    ),
    Mutant(
        "output gate by sigmoid",
        "causal_attention.py",
        "F.silu(self.output_gate(context))",
        "torch.sigmoid(self.output_gate(context))",
    ),
    Mutant(
        "feed-forward's gate and value swapped",
        "feedforward.py",
        "F.silu(activation) * value",
        "F.silu(value) * activation",
    ),
    Mutant(
        "norm's eps ten times as small",
        "block.py",
        "nn.RMSNorm(width, eps=norm_eps)",
        "nn.RMSNorm(width, eps=norm_eps / 10)",
    ),
    Mutant("head not scaled", "language_model.py", " * self.config.logits_scale", ""),
    Mutant(
        "padding not moved behind the tokens",
        "language_model.py",
        "moved = input_ids.gather(1, (every + first.unsqueeze(-1)) % max(1, columns))",
        "moved = input_ids",
    ),
    Mutant(
        "positions start anew in each pass", "token_stream.py", "columns + self._past.lengths.unsqueeze(-1)", "columns"
    ),
    Mutant(
        "history of the padding instead of the last tokens",
        "token_stream.py",
        "last = self._counts_on(device).unsqueeze(-1) +",
        "last = self._columns + 0 * self._counts_on(device).unsqueeze(-1) +",
    ),
    Mutant(
        "a token sees the slot after it", "attention_op.py", "<= places.unsqueeze(-1)", "<= places.unsqueeze(-1) + 1"
    ),
    Mutant(
        "write-only erases",
        "delta_op.py",
        "(delta.rewrite if erases else delta.write)",
        "(delta.rewrite)",
    ),
    Mutant(
        "override with a scale of 0 keeps the gate",
        "delta_op.py",
        "torch.where(scale == 0, shift, scale * beta + shift)",
        "scale * beta + shift",
    ),
    Mutant("override cuts nothing", "delta_op.py", "torch.where(changed > high, high, changed)", "changed"),
    Mutant(
        "norm of the state instead of what was read",
        "compress_op.py",
        "F.rms_norm(compressed, (compressed.shape[-1],), norm_weight.to(compressed.dtype), norm_eps)",
        "compressed * norm_weight",
    ),
    Mutant(
        "next step reads with this step's weights",
        "block.py",
        "for (step, _), (_, following) in zip",
        "for (step, following), _ in zip",
    ),
)


def survives(mutant: Mutant, folder: Path) -> bool:
    """Run the tests of the model on a copy with the mutant in it."""
    copy = folder / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    for part in ("ddl_model", "tests"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    path = copy / "ddl_model" / mutant.file
    content = path.read_text(encoding="utf-8")
    if content.count(mutant.right) != 1:
        sys.exit(
            f"{mutant.file}: {mutant.right!r} occurs {content.count(mutant.right)} times: mend the list of mutants"
        )
    path.write_text(content.replace(mutant.right, mutant.wrong), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    tests = [f"tests/ddl_model/{name}" for name in TESTS]
    result = subprocess.run([*command, *tests], cwd=copy, capture_output=True, text=True, check=False)
    failed = next((line for line in result.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))), "")
    test = failed.partition("::")[2].partition(" - ")[0]
    print(f"| {mutant.what} | {'SURVIVES' if result.returncode == 0 else test} |", flush=True)
    return result.returncode == 0


def main() -> int:
    """Try every mutant, or those whose description holds the words of the command line."""
    words = " ".join(sys.argv[1:])
    chosen = [mutant for mutant in MUTANTS if words in mutant.what]
    print("| what is wrong | first test that notices |\n| --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        survivors = [mutant for mutant in chosen if survives(mutant, Path(folder))]
    print(f"\n{len(chosen) - len(survivors)} of {len(chosen)} mutants were noticed.")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
