//! The HTTP API: routes and their handlers.

mod admin;
mod broadcast;
mod explain;
mod first_generation;
mod healthcheck;
mod layers;
mod limits;
mod metrics;
mod openapi;
mod pages;
mod request_id;
mod request_log;
mod routes;
mod shapes;
mod streams;
mod swagger;
mod tenant_api;

pub use routes::router;
