"""Runs an original with the weights of a manifest, and compares its outputs with a golden or writes them.

A script has a table of `Case`s and calls `main`.
"""

import argparse
import importlib.metadata
import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).resolve().parents[1]
sys.path.append(str(FOLDER))

from golden import Golden  # noqa: E402
from weights import image, state_dict  # noqa: E402

_MOST_STORED = 50_000
_LEAST_TOLERANCE = 2e-5


@dataclass(frozen=True)
class Case:
    """An original and what of it is compared.

    Attributes:
      build: makes the module from the weights by name; most only hand them to `filled`.
      run: (module, inputs by name) -> outputs by name.
      inputs: of a case that is new: shapes by name.
    """

    build: Callable[[dict[str, np.ndarray]], torch.nn.Module | None]
    run: Callable[[torch.nn.Module | None, dict[str, torch.Tensor]], dict[str, torch.Tensor]]
    inputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def filled(module: torch.nn.Module, state: dict[str, np.ndarray]) -> torch.nn.Module:
    """`module` with these weights, which have to be all it has but counters and tables of indices."""
    missing, unexpected = module.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=False)
    missing = [name for name in missing if not name.endswith(("num_batches_tracked", "relative_position_index"))]
    assert not missing and not unexpected, (missing[:5], unexpected[:5])
    return module


def of(make: Callable[[], torch.nn.Module]) -> Callable[[dict[str, np.ndarray]], torch.nn.Module]:
    """A `build` for a module whose parameters have the names of the manifest."""

    def build(state: dict[str, np.ndarray]) -> torch.nn.Module:
        module = make()
        # A new case has no manifest yet.
        return filled(module, state or generated(module))

    return build


def generated(module: torch.nn.Module) -> dict[str, np.ndarray]:
    """The weights that `weights.py` draws for a module."""
    named = [(name, list(x.shape)) for name, x in module.state_dict().items() if x.is_floating_point()]
    return state_dict(named)


def hooked(module: torch.nn.Module, places: Mapping[str, str], *inputs: torch.Tensor) -> tuple[dict, object]:
    """What submodules return on the way (output name -> path of the submodule), and what the module returns."""
    found, handles = {}, []
    for name, path in places.items():
        hook = lambda _, __, out, name=name: found.__setitem__(name, out.clone())  # noqa: E731
        handles.append(module.get_submodule(path).register_forward_hook(hook))
    result = module(*inputs)
    for handle in handles:
        handle.remove()
    return found, result


def places(paths: Mapping[str, str], result: str = "") -> Callable:
    """A `run` for a module of one input `x`: outputs of submodules, and its own under the name `result`."""

    def run(module: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found, out = hooked(module, paths, inputs["x"])
        return found | ({result: out} if result else {})

    return run


def outputs(case: Case, info: dict, inputs: dict[str, np.ndarray], state: dict, dtype: torch.dtype) -> dict:
    """The outputs of one run as arrays; those with multiplied parameters have the prefix of the manifest."""
    gain, found = info.get("layer_scale_gain"), {}
    for prefix in ["", gain["prefix"]] if gain else [""]:
        module = case.build(state)
        if module is not None:
            module = module.to(dtype).train(info.get("mode") == "train")
        if prefix:
            for name, parameter in module.named_parameters():
                if name.rsplit(".", 1)[-1] == gain["leaf"]:
                    parameter.data *= gain["factor"]
        tensors = {k: torch.from_numpy(np.array(v)) for k, v in inputs.items()}
        tensors = {k: v.to(dtype) if v.dtype == torch.float32 else v for k, v in tensors.items()}
        found |= {prefix + k: v.detach().numpy() for k, v in case.run(module, tensors).items()}
    return found


def check(name: str, case: Case) -> bool:
    """Runs a case again and prints how far it is from the golden."""
    golden = Golden(name)
    state = golden.state_dict() if "state_dict" in golden.info else {}
    try:
        found = outputs(case, golden.info, golden.inputs(), state, torch.float32)
    # One original that does not run here does not keep the others from it.
    except Exception as error:
        print(f"{name}: FAILED, {type(error).__name__}: {str(error).splitlines()[0][:200]}")
        return False
    if missing := golden.info["outputs"].keys() - found.keys():
        print(f"{name}: nothing for {', '.join(sorted(missing))}")
        return False
    # Integers have no tolerance.
    errors = {n: golden.error(n, found[n]) for n in golden.info["outputs"]}
    worst = max((error / tolerance if tolerance else error and math.inf, n) for n, (error, tolerance) in errors.items())
    print(f"{name}: {'same' if worst[0] <= 1 else 'DIFFERENT'}, at most {worst[0]:.2f} of the tolerance ({worst[1]})")
    return worst[0] <= 1


def write(name: str, case: Case, package: str) -> None:
    """Writes the manifest and the arrays of a case."""
    path = FOLDER / f"{name}.json"
    if path.exists():
        golden = Golden(name)
        info, inputs = golden.info, golden.inputs()
        stored = {k: v for k, v in golden.arrays.items() if not k.startswith("out/")}
        state = golden.state_dict() if "state_dict" in info else {}
    else:
        seeds = {key: 1 + i for i, key in enumerate(case.inputs)}
        inputs = {key: image(shape, seeds[key]) for key, shape in case.inputs.items()}
        stored, module = {}, case.build({})
        state = generated(module)
        info = {
            "case": name,
            "source": {"package": package, "version": importlib.metadata.version(package)},
            "mode": "eval",
            "weights": "generated",
            "weight_seed": 0,
            "inputs": {
                key: {"kind": "normal", "shape": list(x.shape), "seed": seeds[key]} for key, x in inputs.items()
            },
            "notes": [],
            "state_dict": [[key, list(x.shape)] for key, x in state.items()],
        }
    single = outputs(case, info, inputs, state, torch.float32)
    double = outputs(case, info, inputs, state, torch.float64)
    info["outputs"] = {key: _describe(x, double[key]) for key, x in single.items()}
    for key, x in single.items():
        stored[f"out/{key}"] = x.reshape(-1)[:: info["outputs"][key].get("stride", 1)] if x.size > _MOST_STORED else x
    path.write_text(json.dumps(info, indent=1) + "\n")
    np.savez_compressed(FOLDER / f"{name}.npz", **stored)


def _describe(x: np.ndarray, exact: np.ndarray) -> dict:
    largest = float(np.nanmax(np.abs(x))) if x.size else 0.0
    gap = float(np.nanmax(np.abs(x - exact))) / (largest or 1.0) if x.size else 0.0
    info = {
        "shape": list(x.shape),
        "dtype": str(x.dtype),
        "absmax": largest,
        "float32_vs_float64": gap,
        "tol": max(10 * gap, _LEAST_TOLERANCE) if x.dtype.kind == "f" else 0,
        "stored": "full",
    }
    if x.size > _MOST_STORED:
        stride = -(-x.size // _MOST_STORED)
        while math.gcd(stride, x.size) > 1:
            stride += 1
        info |= {"stored": "subsample", "stride": stride}
    return info


def main(cases: Mapping[str, Case], package: str) -> None:
    """The command of a script."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", help="cases; all without")
    parser.add_argument("--write", action="store_true", help="write the goldens instead of comparing")
    given = parser.parse_args()
    torch.manual_seed(0)
    if given.write:
        for name in given.names:
            write(name, cases[name], package)
    else:
        same = [check(name, cases[name]) for name in given.names or cases]
        sys.exit(0 if all(same) else 1)
