"""The node's API over gRPC, gRPC-Web and Connect, as `shared/proto` defines it."""
