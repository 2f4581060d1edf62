# SPDX-License-Identifier: Apache-2.0
from pycompss.master import compss_wait_on

__all__ = ["compss_wait_on"]
