//! Frames that gregor sends: replies to pods, and queries passed on to the existing cache in the pod's own name.
