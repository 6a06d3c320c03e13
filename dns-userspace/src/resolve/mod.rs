//! From an intercepted query to an answer: look the target up, follow its chain, compose the reply.
