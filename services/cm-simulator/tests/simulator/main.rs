//! Does the simulator behave as its scenarios say, over real HTTP?

mod api;
mod notifications;
mod pages;
mod scenarios;
mod support;
