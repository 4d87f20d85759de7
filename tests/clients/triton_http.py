"""Checks of tritonclient over HTTP."""

import asyncio
import struct

import numpy as np
import tritonclient.http as client
import tritonclient.http.aio as aio
from checks import HTTP, LABELS, MODEL, SHAPE, pixels, refused, run

TRITON = client.InferenceServerClient(HTTP, concurrency=4)


def tensor(array, *, binary=True, module=client):
    given = module.InferInput("pixels", list(array.shape), "FP32")
    given.set_data_from_numpy(array, binary_data=binary)
    return [given]


def wish(name, **options):
    return client.InferRequestedOutput(name, **options)


def expected(array):
    return TRITON.infer(MODEL, tensor(array, binary=False), outputs=[wish("logits", binary_data=False)]).as_numpy(
        "logits"
    )


def check_live():
    assert TRITON.is_server_live()


def check_ready():
    assert TRITON.is_server_ready()


def check_model_ready():
    assert TRITON.is_model_ready(MODEL)
    assert TRITON.is_model_ready(MODEL, "1")
    assert not TRITON.is_model_ready("nix")


def check_server_metadata():
    metadata = TRITON.get_server_metadata()
    assert metadata["name"] == "deep-delta-serving"
    assert "binary_tensor_data" in metadata["extensions"]


def check_model_metadata():
    metadata = TRITON.get_model_metadata(MODEL, "1")
    assert metadata["inputs"] == [{"name": "pixels", "datatype": "FP32", "shape": [-1, *SHAPE]}]
    refused(lambda: TRITON.get_model_metadata("nix"), "no model 'nix'")


def check_model_config():
    config = TRITON.get_model_config(MODEL)
    assert config["max_batch_size"] > 1
    assert config["input"][0]["dims"] == list(SHAPE)


def check_statistics():
    before = TRITON.get_inference_statistics(MODEL)["model_stats"][0]["inference_count"]
    TRITON.infer(MODEL, tensor(pixels(3)))
    assert TRITON.get_inference_statistics(MODEL, "1")["model_stats"][0]["inference_count"] == before + 3
    assert TRITON.get_inference_statistics()["model_stats"][0]["name"] == MODEL


def check_json_both_ways():
    result = TRITON.infer(MODEL, tensor(pixels(2), binary=False), outputs=[wish("probabilities", binary_data=False)])
    assert np.allclose(result.as_numpy("probabilities").sum(1), 1, atol=1e-5)
    assert "data" in result.get_output("probabilities")


def check_binary_both_ways():
    result = TRITON.infer(MODEL, tensor(pixels(2)), outputs=[wish("logits", binary_data=True)])
    assert np.array_equal(result.as_numpy("logits"), expected(pixels(2)))
    assert "data" not in result.get_output("logits")


def check_binary_in_json_out():
    result = TRITON.infer(MODEL, tensor(pixels()), outputs=[wish("logits", binary_data=False)])
    assert np.array_equal(result.as_numpy("logits"), expected(pixels()))


def check_json_in_binary_out():
    result = TRITON.infer(MODEL, tensor(pixels(), binary=False), outputs=[wish("logits", binary_data=True)])
    assert np.array_equal(result.as_numpy("logits"), expected(pixels()))


def check_outputs_of_both_kinds():
    result = TRITON.infer(MODEL, tensor(pixels()), outputs=[wish("logits"), wish("probabilities", binary_data=False)])
    assert np.array_equal(result.as_numpy("logits"), expected(pixels()))
    assert result.as_numpy("probabilities").shape == (1, len(LABELS))


def check_default_outputs():
    result = TRITON.infer(MODEL, tensor(pixels()))
    assert {output["name"] for output in result.get_response()["outputs"]} == {"logits", "probabilities"}


def check_gate_outputs():
    assert TRITON.infer(MODEL, tensor(pixels()), outputs=[wish("0.attn/beta")]).as_numpy("0.attn/beta").shape == (1, 6)


def check_classes():
    for binary in (True, False):
        result = TRITON.infer(MODEL, tensor(pixels()), outputs=[wish("logits", binary_data=binary, class_count=2)])
        best = result.as_numpy("logits")
        assert best.shape == (1, 2)
        text = best[0][0].decode() if isinstance(best[0][0], bytes) else best[0][0]
        assert text.split(":")[2] == LABELS[int(expected(pixels()).argmax())]


def check_request_id():
    assert TRITON.infer(MODEL, tensor(pixels()), request_id="mine").get_response()["id"] == "mine"


def check_version():
    assert TRITON.infer(MODEL, tensor(pixels()), model_version="1").get_response()["model_version"] == "1"
    refused(lambda: TRITON.infer(MODEL, tensor(pixels()), model_version="7"), "version '7'")


def check_priority_timeout_and_custom_parameters():
    result = TRITON.infer(MODEL, tensor(pixels()), priority=1, timeout=5_000_000, parameters={"mine": "x"})
    assert result.as_numpy("logits").shape == (1, len(LABELS))


def check_sequences_are_refused():
    refused(lambda: TRITON.infer(MODEL, tensor(pixels()), sequence_id=5, sequence_start=True), "keep no state")


def check_compression():
    for sent in (None, "gzip", "deflate"):
        for wanted in (None, "gzip", "deflate"):
            result = TRITON.infer(
                MODEL,
                tensor(pixels()),
                outputs=[wish("logits")],
                request_compression_algorithm=sent,
                response_compression_algorithm=wanted,
            )
            assert np.array_equal(result.as_numpy("logits"), expected(pixels())), (sent, wanted)


def check_many_at_once():
    calls = [TRITON.async_infer(MODEL, tensor(pixels(1, i)), outputs=[wish("logits")]) for i in range(32)]
    for i, call in enumerate(calls):
        assert np.allclose(call.get_result().as_numpy("logits"), expected(pixels(1, i)), rtol=1e-4, atol=1e-5)


def check_asyncio():
    async def both():
        async with aio.InferenceServerClient(HTTP) as other:
            assert await other.is_server_live()
            return await asyncio.gather(*(other.infer(MODEL, tensor(pixels(1, i), module=aio)) for i in range(8)))

    for i, result in enumerate(asyncio.run(both())):
        assert np.allclose(result.as_numpy("logits"), expected(pixels(1, i)), rtol=1e-4, atol=1e-5)


def check_a_body_made_apart():
    body, length = client.InferenceServerClient.generate_request_body(tensor(pixels()), outputs=[wish("logits")])
    headers = {"Inference-Header-Content-Length": str(length)}
    response = TRITON._post(f"v2/models/{MODEL}/infer", body, headers, None)
    answer = response.read()
    result = client.InferenceServerClient.parse_response_body(
        answer, header_length=int(response.get("Inference-Header-Content-Length"))
    )
    assert np.array_equal(result.as_numpy("logits"), expected(pixels()))


def check_the_bytes_of_the_input_alone():
    headers = {"Inference-Header-Content-Length": "0"}
    response = TRITON._post(f"v2/models/{MODEL}/infer", pixels().tobytes(), headers, None)
    answer = response.read()
    result = client.InferenceServerClient.parse_response_body(
        answer, header_length=int(response.get("Inference-Header-Content-Length"))
    )
    assert np.array_equal(result.as_numpy("logits"), expected(pixels()))


def check_nan():
    array = pixels()
    array[:] = np.nan
    assert np.isnan(TRITON.infer(MODEL, tensor(array)).as_numpy("logits")).all()


def check_wrong_shape():
    given = client.InferInput("pixels", [1, 2, 3], "FP32")
    given.set_data_from_numpy(np.zeros((1, 2, 3), np.float32))
    assert refused(lambda: TRITON.infer(MODEL, [given]), "has shape").status() == "400"


def check_wrong_datatype():
    given = client.InferInput("pixels", [1, *SHAPE], "INT64")
    given.set_data_from_numpy(np.zeros((1, *SHAPE), np.int64))
    assert refused(lambda: TRITON.infer(MODEL, [given]), "is FP32, not 'INT64'").status() == "400"


def check_wrong_input_and_output_names():
    given = client.InferInput("image", [1, *SHAPE], "FP32")
    given.set_data_from_numpy(pixels())
    assert refused(lambda: TRITON.infer(MODEL, [given]), "no input 'image'").status() == "400"
    refused(lambda: TRITON.infer(MODEL, tensor(pixels()), outputs=[wish("y")]), "no output 'y'")


def check_unknown_model():
    assert refused(lambda: TRITON.infer("nix", tensor(pixels())), "no model 'nix'").status() == "404"


def check_repository():
    (line,) = TRITON.get_model_repository_index()
    assert (line["name"], line["version"], line["state"]) == (MODEL, "1", "READY")
    TRITON.unload_model(MODEL)
    assert not TRITON.is_model_ready(MODEL)
    refused(lambda: TRITON.infer(MODEL, tensor(pixels())), "not ready")
    TRITON.load_model(MODEL)
    assert TRITON.is_model_ready(MODEL)
    TRITON.load_model(MODEL, config='{"batching": {"max_rows": 8}}')
    assert TRITON.get_model_config(MODEL)["parameters"]["batch_rows"] == {"string_value": "8"}
    refused(lambda: TRITON.load_model("nix"), "no model 'nix'")
    refused(lambda: TRITON.load_model(MODEL, config="{}", files={"file:1/model.onnx": b"x"}))
    TRITON.load_model(MODEL)


def check_log_settings():
    before = TRITON.get_log_settings()
    assert TRITON.update_log_settings({"log_verbose_level": 1})["log_verbose_level"] == 1
    assert TRITON.update_log_settings({"log_verbose_level": 0}) == before
    refused(lambda: TRITON.update_log_settings({"log_file": "/tmp/x"}), "log_file")


def check_what_is_not_there_is_refused():
    refused(TRITON.get_trace_settings)
    refused(TRITON.get_system_shared_memory_status)
    given = client.InferInput("pixels", [1, *SHAPE], "FP32")
    given.set_shared_memory("region", struct.calcsize("f") * 96)
    refused(lambda: TRITON.infer(MODEL, [given]), "memory is not shared")


if __name__ == "__main__":
    run(globals())
