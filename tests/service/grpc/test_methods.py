import logging
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict

from service import errors
from service.api.problems import KINDS
from service.api.routes import ROUTES
from service.errors import ServiceError
from service.grpc import inference_pb2 as pb
from service.grpc.answers import METHODS
from service.grpc.server import GrpcServer
from service.grpc.status import CODES, http_status
from service.settings import InvalidSettings
from tests.service.conftest import Client
from tests.service.grpc.client import METHODS as DECLARED
from tests.service.grpc.client import GrpcClient, infer_request, metadata_of
from tests.service.tiny_bundle import BundleMaker

CODE = grpc.StatusCode


def as_http(message: Any) -> Any:
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def test_every_declared_method_has_its_answer() -> None:
    assert set(DECLARED) == METHODS.keys() | {"ModelInfer", "ModelStreamInfer"}


def test_methods_need_the_scope_that_their_paths_need() -> None:
    scopes = {route.path: route.scope for route in ROUTES}
    paths = {
        "ServerLive": "/v2/health/live",
        "ServerReady": "/v2/health/ready",
        "ServerMetadata": "/v2",
        "ModelReady": "/v2/models/{name}/ready",
        "ModelMetadata": "/v2/models/{name}",
        "ModelConfig": "/v2/models/{name}/config",
        "ModelStatistics": "/v2/models/stats",
        "RepositoryIndex": "/v2/repository/index",
        "RepositoryModelLoad": "/v2/repository/models/{name}/load",
        "RepositoryModelUnload": "/v2/repository/models/{name}/unload",
        "LogSettings": "/v2/logging",
    }
    assert {name: scopes[path] for name, path in paths.items()} == {n: method.scope for n, method in METHODS.items()}


def test_every_error_has_a_code() -> None:
    for error in KINDS:
        assert http_status(error("x")) in CODES, error
    assert CODES[http_status(ValueError())] == CODE.INTERNAL
    assert CODES[http_status(errors.InvalidTensor("x"))] == CODE.INVALID_ARGUMENT
    assert issubclass(errors.InvalidTensor, ServiceError)


def test_the_server(remote: GrpcClient) -> None:
    assert remote.call("ServerLive", pb.ServerLiveRequest()).live
    assert remote.call("ServerReady", pb.ServerReadyRequest()).ready
    assert as_http(remote.call("ServerMetadata", pb.ServerMetadataRequest())) == remote.client.get("/v2").json()


def test_readiness_says_no_while_draining(serve_grpc: Any) -> None:
    remote = serve_grpc()
    remote.client.state.draining = True
    assert not remote.call("ServerReady", pb.ServerReadyRequest()).ready


@pytest.mark.parametrize("version", ["", "1"])
def test_a_model_is_described_as_over_http(remote: GrpcClient, version: str) -> None:
    assert remote.call("ModelReady", pb.ModelReadyRequest(name="tiny", version=version)).ready
    metadata = as_http(remote.call("ModelMetadata", pb.ModelMetadataRequest(name="tiny", version=version)))
    http = remote.client.get("/v2/models/tiny").json()
    for kind in ("inputs", "outputs"):  # JSON has 64-bit integers as strings in protobuf's own mapping
        for tensor in metadata[kind]:
            tensor["shape"] = [int(axis) for axis in tensor["shape"]]
    assert metadata == http
    config = remote.call("ModelConfig", pb.ModelConfigRequest(name="tiny", version=version)).config
    http = remote.client.get("/v2/models/tiny/config").json()
    assert (config.name, config.max_batch_size, config.backend) == ("tiny", http["max_batch_size"], "onnxruntime")
    assert list(config.input[0].dims) == http["input"][0]["dims"]
    assert pb.DataType.Name(config.input[0].data_type) == http["input"][0]["data_type"]
    assert config.dynamic_batching.priority_levels == http["dynamic_batching"]["priority_levels"]
    assert config.parameters["task"].string_value == "image-classification"
    assert config.version_policy.latest.num_versions == 1


def test_statistics(serve_grpc: Any, pixels: Any) -> None:
    remote = serve_grpc()
    remote.call("ModelInfer", infer_request(pixels))
    for request in (pb.ModelStatisticsRequest(), pb.ModelStatisticsRequest(name="tiny", version="1")):
        (stats,) = remote.call("ModelStatistics", request).model_stats
        assert (stats.name, stats.version, stats.inference_count, stats.execution_count) == ("tiny", "1", 1, 1)
        assert stats.inference_stats.success.ns >= stats.inference_stats.compute_infer.ns > 0
        assert [(batch.batch_size, batch.compute_infer.count) for batch in stats.batch_stats] == [(1, 1)]
    assert remote.fail("ModelStatistics", pb.ModelStatisticsRequest(name="nix")).code() == CODE.NOT_FOUND


def test_the_repository(tmp_path: Path, maker: BundleMaker, serve_grpc: Any) -> None:
    maker.write(tmp_path)
    remote = serve_grpc(repository=tmp_path, control="explicit")
    (line,) = remote.call("RepositoryIndex", pb.RepositoryIndexRequest()).models
    assert (line.name, line.version, line.state, line.reason) == ("tiny", "1", "READY", "")
    remote.call("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="tiny"))
    assert not remote.call("RepositoryIndex", pb.RepositoryIndexRequest(ready=True)).models
    error = remote.fail("ModelReady", pb.ModelReadyRequest(name="tiny"))
    assert error.code() == CODE.UNAVAILABLE
    load = pb.RepositoryModelLoadRequest(model_name="tiny")
    load.parameters["config"].string_param = '{"batching": {"max_rows": 3}}'
    remote.call("RepositoryModelLoad", load)
    config = remote.call("ModelConfig", pb.ModelConfigRequest(name="tiny")).config
    assert config.parameters["batch_rows"].string_value == "3"
    load.parameters["file:1/model.onnx"].bytes_param = b"x"
    assert remote.fail("RepositoryModelLoad", load).code() == CODE.INVALID_ARGUMENT


def test_loading_without_explicit_control(remote: GrpcClient) -> None:
    error = remote.fail("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="tiny"))
    assert error.code() == CODE.FAILED_PRECONDITION


def test_log_settings(remote: GrpcClient) -> None:
    before = logging.getLogger().level
    logging.getLogger().setLevel(logging.INFO)
    try:
        settings = remote.call("LogSettings", pb.LogSettingsRequest()).settings
        assert (settings["log_info"].bool_param, settings["log_verbose_level"].uint32_param) == (True, 0)
        request = pb.LogSettingsRequest()
        request.settings["log_verbose_level"].uint32_param = 1
        assert remote.call("LogSettings", request).settings["log_verbose_level"].uint32_param == 1
        assert logging.getLogger().level == logging.DEBUG
        request.settings["log_errors"].bool_param = False
        assert remote.fail("LogSettings", request).code() == CODE.INVALID_ARGUMENT
    finally:
        logging.getLogger().setLevel(before)


def test_what_is_not_there_is_unimplemented(remote: GrpcClient) -> None:
    async def call(method: str) -> Any:
        async with grpc.aio.insecure_channel(remote.target) as channel:
            return await channel.unary_unary(f"/inference.GRPCInferenceService/{method}")(b"")

    for method in ("SystemSharedMemoryStatus", "CudaSharedMemoryRegister", "TraceSetting"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            remote.client.run(call(method))
        assert caught.value.code() == CODE.UNIMPLEMENTED


def test_calls_are_booked_and_have_ids(remote: GrpcClient, pixels: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "service.access"):
        error = remote.fail(
            "ModelInfer", infer_request(pixels, model_name="nix"), metadata=(("x-request-id", "trace-42"),)
        )
    assert metadata_of(error)["x-request-id"] == "trace-42"
    (record,) = (r for r in caplog.records if r.name == "service.access")
    fields = record.__dict__["fields"]
    assert (fields["request_id"], fields["status"], fields["client"]) == ("trace-42", 404, "127.0.0.1")
    assert fields["path"] == "/inference.GRPCInferenceService/ModelInfer"


def test_a_taken_port_is_said_at_once(remote: GrpcClient, serve: Any) -> None:
    taken = remote.client.state.grpc_port
    with pytest.raises(InvalidSettings, match=f"grpc_port={taken}"):
        serve(grpc_port=taken)


def test_no_port_no_grpc(client: Client) -> None:
    assert client.state.settings.grpc_port == -1
    assert client.state.grpc_port is None
    assert GrpcServer.__module__ == "service.grpc.server"
