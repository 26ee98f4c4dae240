//! The client for event streams against servers that misbehave in every way that was thought of.

mod ends;
mod faults;
mod gzip;
mod places;
mod post;
mod redirects;
mod refusals;
mod resume;
mod rig;
mod tls;
