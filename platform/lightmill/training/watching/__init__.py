"""What a run is doing: measured in its workers, merged and kept by its driver, told to whoever asks.

```
Observer (each worker) -> Mailbox (an actor) -> Merging (driver) -> catalog, progress, TensorBoard, MLflow
                                                                  `-> metrics.parquet in the model's version
```
"""
