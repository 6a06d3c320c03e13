//! What an operator sees: metrics, health, readiness, status.
