//! Which interfaces to attach to: veths with a peer in another network namespace, or the configured globs.
