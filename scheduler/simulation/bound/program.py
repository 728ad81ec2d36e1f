"""A linear program collected column by column and row by row in arrays, and solved by HiGHS."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_array, csr_array


class Program:
    """Columns and rows of a linear program, collected in arrays."""

    def __init__(self) -> None:
        """Empty: maximise nothing, subject to nothing."""
        self.columns = 0
        self.rows = 0
        self._worth: list[np.ndarray] = []
        self._upper: list[np.ndarray] = []
        self._limits: list[np.ndarray] = []
        self._entries: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def variables(self, worth: np.ndarray, upper: np.ndarray) -> np.ndarray:
        """New columns in ``[0, upper]``; returns their numbers."""
        self._worth.append(worth)
        self._upper.append(upper)
        self.columns += len(worth)
        return np.arange(self.columns - len(worth), self.columns)

    def limits(self, limit: np.ndarray) -> np.ndarray:
        """New rows ``sum <= limit``; returns their numbers."""
        self._limits.append(limit)
        self.rows += len(limit)
        return np.arange(self.rows - len(limit), self.rows)

    def enter(self, rows: np.ndarray, columns: np.ndarray, values: np.ndarray) -> None:
        """Coefficients; zeros are left out."""
        kept = values != 0.0
        self._entries.append((rows[kept], columns[kept], values[kept]))

    def solve(self) -> tuple[float, np.ndarray, np.ndarray]:
        """The optimum, the columns and the (non-negative) prices of the rows. Raises ValueError if there is none."""
        rows, columns, values = (np.concatenate(parts) for parts in zip(*self._entries, strict=True))
        limit = np.concatenate(self._limits)
        used = np.flatnonzero(np.isfinite(limit))
        matrix = csr_array(coo_array((values, (rows, columns)), shape=(self.rows, self.columns)))[used]
        upper = np.concatenate(self._upper)
        result = linprog(
            -np.concatenate(self._worth),
            A_ub=matrix,
            b_ub=limit[used],
            bounds=np.column_stack((np.zeros(self.columns), upper)),
            method="highs",
        )
        if result.status != 0:
            raise ValueError(f"no solution: {result.message}")
        price = np.zeros(self.rows)
        price[used] = np.maximum(0.0, -result.ineqlin.marginals)
        return -float(result.fun), result.x, price
