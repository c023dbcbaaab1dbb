//! Starts a guest, safely repeatable, and says what became of it.
//!
//!     cargo run -p virtqemud-client --example start -- NAME [SOCKET]

use virtqemud_client::{
    Failure, Reason, SOCKET, by_name, connect,
    proto::{MutationOptions, StartRequest},
};

#[tokio::main]
#[expect(clippy::print_stdout, reason = "what the program is for")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().ok_or("usage: start NAME [SOCKET]")?;
    let socket = arguments.next().unwrap_or_else(|| SOCKET.to_owned());
    let services = connect(&socket).await?;
    let request = StartRequest {
        domain: by_name(&name),
        options: Some(MutationOptions {
            // Whoever repeats the request with this id gets this answer, and the guest is started once.
            request_id: format!("start-{name}-{}", std::process::id()),
            ..Default::default()
        }),
        ..Default::default()
    };
    match services.domains().start(request).await.map_err(Failure::from) {
        Ok(answer) => {
            let guest = answer.into_inner();
            println!("{} runs with id {}, etag {}", guest.name, guest.id, guest.etag);
            Ok(())
        }
        Err(failure) if failure.reason == Reason::OperationInvalid => {
            println!("{name} cannot be started now: {}", failure.message);
            Ok(())
        }
        Err(failure) => Err(failure.into()),
    }
}
