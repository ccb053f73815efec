# cython: language_level=3, freethreading_compatible=False
"""A trace function for lines that may raise again and again, for Python 3.11. From 3.12 on sys.monitoring is used instead.

sys.settrace() takes a tracer that has raised out of service, and with it every line of the `except` block that the
exception has led to. The interpreter itself has no such rule for tracers in C.
"""
from cpython.object cimport PyObject

cdef extern from "Python.h":
    ctypedef struct PyFrameObject:
        pass
    ctypedef int (*Py_tracefunc)(PyObject *, PyFrameObject *, int, PyObject *) except -1
    int PyTrace_LINE
    void PyEval_SetTrace(Py_tracefunc function, PyObject *argument)
    int PyFrame_GetLineNumber(PyFrameObject *frame)

cdef extern from *:
    """
    static inline PyObject *rcv_frame_file(PyFrameObject *frame)
    {
        PyCodeObject *code = PyFrame_GetCode(frame);
        PyObject     *name = code->co_filename; /* the code object outlives this: its frame runs */
        Py_DECREF(code);
        return name;
    }
    """
    PyObject *rcv_frame_file(PyFrameObject *frame)


cdef int trace(PyObject *argument, PyFrameObject *frame, int what, PyObject *value) except -1:
    if what != PyTrace_LINE:
        return 0
    cdef LineTracer tracer = <LineTracer>argument
    file = <object>rcv_frame_file(frame)
    if file in tracer.files:
        tracer.line(file, PyFrame_GetLineNumber(frame))
    return 0


cdef class LineTracer:
    """Call line(file, number) before each line of the files, in this thread, from start() to stop().

    What it raises is raised at that line.

    Args:
        files: a set of file names; it may grow.
        line: called with the file's name and the line's number.
    """
    cdef readonly set files
    cdef object line

    def __init__(self, files: set, line) -> None:
        self.files = files
        self.line = line

    def start(self) -> None:
        """Trace this thread; whatever traced it before is displaced until the caller puts it back."""
        PyEval_SetTrace(trace, <PyObject *>self)

    def stop(self) -> None:
        """Trace no more."""
        PyEval_SetTrace(NULL, NULL)
