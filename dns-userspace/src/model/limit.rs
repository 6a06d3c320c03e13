//! The rate limit of one interface.

/// What an interface may ask of the responder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Matched queries per second and interface; 0 means no limit.
    pub queries_per_second: u32,
    /// How many may come at once.
    pub burst: u32,
}
