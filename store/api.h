// SPDX-License-Identifier: Apache-2.0
// What the shared library shows: everything is hidden but what is marked so.
#pragma once

#if defined(__GNUC__)
#define FOREBAY_API __attribute__((visibility("default")))
#else
#define FOREBAY_API
#endif
