# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=False
"""The frames of other threads, for recoverable.frames.

What does not work: sys._current_frames() and f_back. Both make frame objects, and in Python 3.11 whatever makes an object may have the
garbage collector run, whose finalisers may let others have the GIL. The thread then returns from the very function whose frame is
being made, and what was made refers to memory that it has left. So the collector is off while frames are made, and no Python code
runs. From 3.12 on it only runs between two instructions of Python code.
"""
from libc.stdint cimport uint64_t

cdef extern from *:
    """
    /* Append the frames of a thread, the innermost first. The collector is off. */
    static int rcv_add_frames(PyThreadState *state, PyObject *to)
    {
        PyFrameObject *frame = PyThreadState_GetFrame(state);
        int rc = 0;
        while (frame != NULL && rc == 0) {
            rc = PyList_Append(to, (PyObject *)frame);
            PyFrameObject *back = rc == 0 ? PyFrame_GetBack(frame) : NULL;
            Py_DECREF(frame);
            frame = back;
        }
        return rc;
    }

    /* {thread's identifier: its frames}, of one or of all (0). */
    static PyObject *rcv_frames(uint64_t ident)
    {
        int collects = PyGC_Disable(), rc = 0;
        PyObject *found = PyDict_New();
        PyThreadState *state = PyInterpreterState_ThreadHead(PyInterpreterState_Get());
        for (; found != NULL && rc == 0 && state != NULL; state = PyThreadState_Next(state)) {
            if (ident != 0 && state->thread_id != (unsigned long)ident)
                continue;
            PyObject *key = PyLong_FromUnsignedLong(state->thread_id), *frames = PyList_New(0);
            rc = key == NULL || frames == NULL || rcv_add_frames(state, frames) < 0 || PyDict_SetItem(found, key, frames) < 0 ? -1 : 0;
            Py_XDECREF(key);
            Py_XDECREF(frames);
        }
        if (collects)
            PyGC_Enable();
        if (rc < 0)
            Py_CLEAR(found);
        return found;
    }
    """
    dict rcv_frames(uint64_t ident)


def of_thread(uint64_t ident) -> list:
    """Return the frames of a thread, the innermost first; [] if there is none that has that identifier."""
    return rcv_frames(ident).get(ident, []) if ident else []


def of_threads() -> dict:
    """Return those of all threads, by identifier."""
    return rcv_frames(0)
