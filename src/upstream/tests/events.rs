//! The client for event streams against servers that fail in many ways.

mod ends;
mod faults;
mod gzip;
mod permits;
mod post;
mod redirects;
mod refusals;
mod resume;
mod rig;
mod tls;
