//! Tests of the daemon as a program: its sockets, clients of both fronts, real guests.

mod access;
mod capabilities;
mod daemon;
mod direct;
mod failures;
mod front;
mod grpc;
mod host;
mod hostdev;
mod identity;
mod interface;
mod kill;
mod life;
mod lockd;
mod logd;
mod look;
mod neighbours;
mod network;
mod node;
mod session;
mod silent;
mod storage;
mod switch;
mod tpm;
mod watch;
mod whole;
