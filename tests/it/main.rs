//! Tests of the daemon as a program: its sockets, clients of both fronts, real guests.

mod daemon;
