/* The two moments that callgrind is told of, called from Python through ctypes: benchmarks/callgrind.py. */
#include <valgrind/callgrind.h>

void begin_counting(void);
void end_counting(void);

void begin_counting(void)
{
    CALLGRIND_START_INSTRUMENTATION;
    CALLGRIND_ZERO_STATS;
}

void end_counting(void)
{
    CALLGRIND_DUMP_STATS;
    CALLGRIND_STOP_INSTRUMENTATION;
}
