//! The whole system on real services: real `fleetpulse` processes, a real Kafka, a real ClickHouse, and clients that
//! speak MQTT over TCP. `cargo xtask test` starts the services and runs this; without them every test fails and says so.
//!
//! Each test has a database and topics of its own, named after the test. Tests that hang or kill a service start one of
//! their own.

mod access;
mod certificates;
mod client_certificates;
mod clients;
mod commands;
mod downlink;
mod faults;
mod fleet;
mod heartbeats;
mod ledger;
mod messages;
mod mqtt_client;
mod nodes;
mod packet_cases;
mod pipeline;
mod protocol;
mod recovery;
mod registry;
mod rejects;
mod replay;
mod services;
mod sessions;
