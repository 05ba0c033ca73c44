//! Does the simulator behave as its scenarios say, over real HTTP?

mod api;
mod drive;
mod notifications;
mod pages;
mod restart;
mod scenarios;
mod support;
