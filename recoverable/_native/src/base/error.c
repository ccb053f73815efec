/* error.c -- the last error of each thread: a code, an errno and one line of text.
 *
 * A failing function calls rcv_raise() once, where it knows most; callers above only pass the code on. Codes that are
 * part of the normal flow (RCV_ERR_AGAIN) are returned without it, because writing a text costs more than the call.
 */
#include "base.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

struct error {
    int  err; /* errno of the system call that failed, or 0 */
    char text[512];
};

static _Thread_local struct error last;

/* rcv_raise -- keep the text (and what errno `err` means, if it is not 0) for this thread; returns `code`.
 * The arguments may quote rcv_error_text() itself. errno is left as it was. */
int rcv_raise(int code, int err, const char *format, ...)
{
    int     saved = errno;
    char    text[sizeof last.text];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (n < 0)
        text[0] = '\0', n = 0;
    if (err != 0 && (size_t)n < sizeof text) {
        char room[128];
        snprintf(text + n, sizeof text - (size_t)n, " (%s)", strerror_r(err, room, sizeof room));
    }
    memcpy(last.text, text, sizeof text);
    last.err = err;
    errno = saved;
    return code;
}

/* rcv_error_text -- what happened last in this thread; "" if nothing has. Valid until the next failure. */
const char *rcv_error_text(void) { return last.text; }

/* rcv_error_errno -- the errno behind it, or 0. */
int rcv_error_errno(void) { return last.err; }
