//! What an operator sees: metrics, health, readiness, status; read from snapshots, never from the serving path.

mod client;
mod metrics;
mod serve;
mod status;

pub use client::{ClientError, Monitor, Page, fetch_page, fetch_status, fetch_target};
pub use metrics::{CONTENT_TYPE, Section, lines, render};
pub use serve::{ServeError, Source, bind_control, bind_pages, control, pages, serve};
pub use status::{
    AnswersStatus, ClaimStatus, ClaimsStatus, ConfigStatus, Counter, InFrontStatus,
    InterfaceStatus, KernelStatus, ProgramStatus, Readiness, RuleStatus, Status, TcpStatus, Vital,
};
