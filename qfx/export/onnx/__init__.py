"""ONNX files: one table says how each operation is written (:mod:`qfx.export.onnx.table`)."""
