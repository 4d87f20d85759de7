"""Who may import whom: the contracts of import-linter, and a service that runs where torch and onnx are not."""

import subprocess
import sys
from pathlib import Path

IMPORT_ALL = """
import importlib, pkgutil, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"{{name}} is blocked")

sys.meta_path.insert(0, Blocked())
import service
names = [m.name for m in pkgutil.walk_packages(service.__path__, "service.")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""


def test_the_service_needs_neither_torch_nor_onnx_nor_our_other_packages(root: Path) -> None:
    blocked = {"torch", "onnx", "onnxscript", "onnx_ir", "ddl_model", "export"}
    code = IMPORT_ALL.format(blocked=blocked)
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 25


def test_the_block_works(root: Path) -> None:
    code = IMPORT_ALL.format(blocked={"onnxruntime"})
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert "onnxruntime is blocked" in result.stderr


def test_the_import_contracts_hold(root: Path) -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_start_loads_no_library_before_a_model_or_a_setting_asks_for_it(root: Path) -> None:
    late = {"PIL", "cryptography", "grpc", "jinja2", "jwt", "llguidance", "tokenizers", "opentelemetry.sdk", "fsspec"}
    code = f"import sys, service.__main__; print(*({late} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
