"""The Open Inference Protocol over gRPC: the same models, guard and limits as over HTTP, in the same process."""
