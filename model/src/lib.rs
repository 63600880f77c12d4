//! A model of how messages are delivered.

pub mod bounds;
pub mod bug;
pub mod delivery;
mod faults;
pub mod message;
pub mod properties;
pub mod ratchet;
mod receiving;
pub mod report;
mod sending;
pub mod step;
pub mod store;
pub mod world;
pub mod worlds;
