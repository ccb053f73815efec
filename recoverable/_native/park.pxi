# park.pxi -- where objects that are over wait for their next life: a request makes one of each. Part of runtime.pyx.
#
# Cython's own way (`@cython.freelist`) is not for a class with a base class, and constructs and takes apart all the same.
#
# What is parked is nobody's: its last reference and its weak references are gone, the collector does not know it, and it holds
# on to nothing but None; a Call, also to a Transaction that holds on to nothing. It has never been finalised: the collector would
# not do that again in its next life.

cdef extern from *:
    """
    #define RCV_PARKED 64

    typedef struct {
        PyObject  *kept[RCV_PARKED];
        int        n;
        destructor dealloc; /* Cython's, of their type */
    } rcv_parking;

    static rcv_parking rcv_calls, rcv_servings;

    /* Has an object one reference, and no weak one? */
    static inline int rcv_is_alone(PyObject *o)
    {
        return Py_REFCNT(o) == 1 && *(PyObject **)((char *)o + Py_TYPE(o)->tp_weaklistoffset) == NULL;
    }

    /* Have the objects of a type deallocated by a function that parks them, or hands them on to rcv_park(). */
    static void rcv_parks(PyTypeObject *type, rcv_parking *p, destructor dealloc)
    {
        p->dealloc = type->tp_dealloc;
        type->tp_dealloc = dealloc;
    }

    /* A new reference to one of them: the list must not be empty. */
    static PyObject *rcv_unpark(rcv_parking *p)
    {
        PyObject *o = p->kept[--p->n];
        (void)PyObject_Init(o, Py_TYPE(o));
        PyObject_GC_Track(o);
        return o;
    }

    /* An object without references, which holds on to nothing, is done with. */
    static void rcv_park(rcv_parking *p, PyObject *o)
    {
        Py_ssize_t weak = Py_TYPE(o)->tp_weaklistoffset;
        PyObject_GC_UnTrack(o);
        if (weak > 0 && *(PyObject **)((char *)o + weak) != NULL)
            PyObject_ClearWeakRefs(o); /* whose callbacks may park others */
        if (p->n < RCV_PARKED && !PyObject_GC_IsFinalized(o))
            p->kept[p->n++] = o;
        else
            p->dealloc(o);
    }
    """
    ctypedef void (*destructor)(PyObject *)
    ctypedef struct rcv_parking:
        int n
    rcv_parking rcv_calls, rcv_servings
    void rcv_parks(PyTypeObject *type, rcv_parking *p, destructor dealloc)
    bint rcv_is_alone(PyObject *o) noexcept
    object rcv_unpark(rcv_parking *p)
    void rcv_park(rcv_parking *p, PyObject *o) noexcept
