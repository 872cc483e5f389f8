"""Networks.  Only modules of this folder import inference runtimes (torch, diffusers, ONNX Runtime) at their top."""
