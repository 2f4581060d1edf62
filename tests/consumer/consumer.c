/* SPDX-License-Identifier: Apache-2.0 */
/* Reads what consumer_cxx has put, through the installed library. Usage: consumer_c SOCKET */
#include <forebay/forebay.h>

#include <stdio.h>
#include <string.h>

int main(int argc, char** argv) {
  forebay_connect_options options = FOREBAY_CONNECT_OPTIONS_INIT;
  forebay_client* client = NULL;
  forebay_view* view = NULL;
  const double* numbers;
  double sum = 0;
  size_t i;
  if (argc != 2) return 2;
  options.address = argv[1];
  if (forebay_connect(&options, &client) != 0 ||
      forebay_get(client, "numbers", strlen("numbers"), NULL, &view) != 0) {
    fprintf(stderr, "consumer_c: %s\n", forebay_last_error());
    return 1;
  }
  numbers = forebay_view_data(view);
  for (i = 0; i < forebay_view_size(view) / sizeof *numbers; ++i) sum += numbers[i];
  printf("sum %.0f\n", sum);
  forebay_release(view);
  forebay_close(client);
  return sum == 499500.0 ? 0 : 1;
}
