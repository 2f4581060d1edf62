# SPDX-License-Identifier: Apache-2.0
"""The blocked matrix product of the paper, with blocks shared in seven ways; `make bench-matmul`.

Without options: the vector kernel, by concurrent.futures, over block sizes.
"""

# Only what the workers need is imported here: each of them imports this file.
from __future__ import annotations

import pathlib
import sys

sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

import paper.start  # noqa: E402, F401  (before NumPy)


def main() -> None:
    from matmul import plans
    from paper import driver, options

    parser = options.parser("bench-matmul", __doc__)
    plans.add_options(parser)
    given = parser.parse_args()
    driver.run(plans.benchmark(given), given)


if __name__ == "__main__":
    main()
