"""Checks of tritonclient over gRPC."""

import asyncio
import queue

import numpy as np
import tritonclient.grpc as client
import tritonclient.grpc.aio as aio
from checks import GRPC, LABELS, MODEL, SHAPE, pixels, refused, run

TRITON = client.InferenceServerClient(GRPC)


def tensor(array, module=client):
    given = module.InferInput("pixels", list(array.shape), "FP32")
    given.set_data_from_numpy(array)
    return [given]


def wish(name, **options):
    return client.InferRequestedOutput(name, **options)


def logits(array):
    return TRITON.infer(MODEL, tensor(array), outputs=[wish("logits")]).as_numpy("logits")


def check_health():
    assert TRITON.is_server_live()
    assert TRITON.is_server_ready()
    assert TRITON.is_model_ready(MODEL)
    assert TRITON.is_model_ready(MODEL, "1")
    refused(lambda: TRITON.is_model_ready("nix"), "no model 'nix'")


def check_server_metadata():
    assert TRITON.get_server_metadata(as_json=True)["name"] == "deep-delta-serving"
    assert "statistics" in TRITON.get_server_metadata().extensions


def check_model_metadata():
    metadata = TRITON.get_model_metadata(MODEL, "1")
    assert (metadata.inputs[0].name, list(metadata.inputs[0].shape)) == ("pixels", [-1, *SHAPE])


def check_model_config():
    config = TRITON.get_model_config(MODEL).config
    assert config.max_batch_size > 1
    assert list(config.input[0].dims) == list(SHAPE)
    assert TRITON.get_model_config(MODEL, as_json=True)["config"]["input"][0]["data_type"] == "TYPE_FP32"


def check_statistics():
    before = TRITON.get_inference_statistics(MODEL).model_stats[0].inference_count
    logits(pixels(3))
    assert TRITON.get_inference_statistics(MODEL, "1").model_stats[0].inference_count == before + 3
    assert TRITON.get_inference_statistics(as_json=True)["model_stats"][0]["name"] == MODEL


def check_inference():
    result = TRITON.infer(MODEL, tensor(pixels(2)), request_id="mine", model_version="1")
    assert np.allclose(result.as_numpy("probabilities").sum(1), 1, atol=1e-5)
    assert result.get_response().id == "mine"
    assert {output.name for output in result.get_response().outputs} == {"logits", "probabilities"}


def check_classes():
    best = TRITON.infer(MODEL, tensor(pixels()), outputs=[wish("logits", class_count=2)]).as_numpy("logits")
    assert best.shape == (1, 2)
    assert best[0][0].decode().split(":")[2] == LABELS[int(logits(pixels()).argmax())]


def check_priority_timeout_and_custom_parameters():
    result = TRITON.infer(
        MODEL, tensor(pixels()), priority=1, timeout=5_000_000, client_timeout=10, parameters={"mine": "x"}
    )
    assert result.as_numpy("logits").shape == (1, len(LABELS))


def check_compression():
    for algorithm in ("gzip", "deflate"):
        result = TRITON.infer(MODEL, tensor(pixels()), outputs=[wish("logits")], compression_algorithm=algorithm)
        assert np.array_equal(result.as_numpy("logits"), logits(pixels()))


def check_callbacks():
    found = queue.Queue()
    for i in range(32):
        TRITON.async_infer(MODEL, tensor(pixels(1, i)), lambda result, error, i=i: found.put((i, result, error)))
    for _ in range(32):
        i, result, error = found.get(timeout=20)
        assert error is None
        assert np.allclose(result.as_numpy("logits"), logits(pixels(1, i)), rtol=1e-4, atol=1e-5)


def check_stream():
    found = queue.Queue()
    with client.InferenceServerClient(GRPC) as streaming:
        streaming.start_stream(lambda result, error: found.put((result, error)))
        for i in range(40):
            name = "nix" if i == 5 else MODEL
            streaming.async_stream_infer(
                name, tensor(pixels(1, i)), request_id=str(i), enable_empty_final_response=True
            )
        for i in range(40):
            result, error = found.get(timeout=20)
            if i == 5:
                assert "no model 'nix'" in str(error)
                continue
            assert error is None
            assert result.get_response().id == str(i)
            assert result.get_response().parameters["triton_final_response"].bool_param
            assert np.allclose(result.as_numpy("logits"), logits(pixels(1, i)), rtol=1e-4, atol=1e-5)
        streaming.stop_stream()


def check_asyncio():
    async def both():
        async with aio.InferenceServerClient(GRPC) as other:
            assert await other.is_server_live()

            async def requests():
                for i in range(4):
                    yield {"model_name": MODEL, "inputs": tensor(pixels(1, i), aio)}

            streamed = [result async for result, error in other.stream_infer(requests()) if error is None]
            return streamed + await asyncio.gather(
                *(other.infer(MODEL, tensor(pixels(1, i), aio)) for i in range(4, 8))
            )

    for i, result in enumerate(asyncio.run(both())):
        assert np.allclose(result.as_numpy("logits"), logits(pixels(1, i)), rtol=1e-4, atol=1e-5)


def check_errors():
    given = client.InferInput("pixels", [1, 2, 3], "FP32")
    given.set_data_from_numpy(np.zeros((1, 2, 3), np.float32))
    assert "INVALID_ARGUMENT" in refused(lambda: TRITON.infer(MODEL, [given]), "has shape").status()
    assert "NOT_FOUND" in refused(lambda: TRITON.infer("nix", tensor(pixels())), "no model 'nix'").status()
    refused(lambda: TRITON.infer(MODEL, tensor(pixels()), sequence_id=5), "keep no state")
    refused(lambda: TRITON.infer(MODEL, tensor(pixels()), outputs=[wish("y")]), "no output 'y'")


def check_repository():
    (line,) = TRITON.get_model_repository_index().models
    assert (line.name, line.version, line.state) == (MODEL, "1", "READY")
    TRITON.unload_model(MODEL)
    refused(lambda: TRITON.infer(MODEL, tensor(pixels())), "not ready")
    TRITON.load_model(MODEL, config='{"batching": {"max_rows": 8}}')
    assert TRITON.get_model_config(MODEL).config.parameters["batch_rows"].string_value == "8"
    refused(lambda: TRITON.load_model(MODEL, config="{}", files={"file:1/model.onnx": b"x"}))
    TRITON.load_model(MODEL)
    assert TRITON.is_model_ready(MODEL)


def check_log_settings():
    assert TRITON.get_log_settings().settings["log_info"].bool_param
    changed = TRITON.update_log_settings({"log_verbose_level": 1}, as_json=True)["settings"]
    assert changed["log_verbose_level"]["uint32_param"] == 1
    TRITON.update_log_settings({"log_verbose_level": 0})


def check_what_is_not_there_is_unimplemented():
    for call in (TRITON.get_trace_settings, TRITON.get_system_shared_memory_status):
        assert "UNIMPLEMENTED" in refused(call).status()


if __name__ == "__main__":
    run(globals())
