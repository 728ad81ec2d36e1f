"""What ServeGen writes (alibaba/ServeGen, ``save_requests_to_csv``): ``request_id,timestamp,input_tokens,output_tokens``.

``timestamp`` is in seconds. Workloads of the multimodal category have no ``input_tokens`` and are refused.
"""

from __future__ import annotations

from collections.abc import Callable

from scheduler.simulation.trace_formats.block import Block
from scheduler.simulation.trace_formats.csv_file import Columns, CsvFormat, Options
from scheduler.simulation.trace_formats.normalised import whole


def _reader(options: Options) -> Callable[[Columns], Block]:
    return lambda columns: Block(
        arrival_s=columns["timestamp"].to_numpy(),
        input_tokens=whole(columns["input_tokens"]),
        output_tokens=whole(columns["output_tokens"]),
    )


SERVEGEN = CsvFormat(
    name="ServeGen",
    columns={"timestamp": "seconds", "input_tokens": "count", "output_tokens": "count"},
    reader=_reader,
)
