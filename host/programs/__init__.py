"""From GEMM requests to placed programs: shapes, tiles, spaces of device memory, buffers, transfers. Knows no model and no board."""
