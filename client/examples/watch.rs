//! Prints all guests and then what happens to them, over restarts of the daemon.
//!
//!     cargo run -p virtqemud-client --example watch -- [SOCKET]

use virtqemud_client::{News, SOCKET, Watch, connect_lazily, proto::WatchRequest, proto::event::Detail};

#[tokio::main]
#[expect(clippy::print_stdout, reason = "what the program is for")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let socket = std::env::args().nth(1).unwrap_or_else(|| SOCKET.to_owned());
    let request = WatchRequest {
        send_initial_state: true,
        ..Default::default()
    };
    let mut watch = Watch::new(&connect_lazily(socket), request);
    loop {
        match watch.next().await? {
            News::Initial(guest) => println!("{} {}", guest.name, guest.state().as_str_name()),
            News::Event(event) => {
                let what = match &event.detail {
                    Some(Detail::Lifecycle(it)) => it.detail().as_str_name(),
                    _ => event.kind().as_str_name(),
                };
                println!("{} {what}", event.name);
            }
            News::Bookmark(version) => println!("-- up to {}", version.counter),
            News::Reset => println!("-- all guests again"),
        }
    }
}
