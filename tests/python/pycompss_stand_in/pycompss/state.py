# SPDX-License-Identifier: Apache-2.0
on_worker = False
