//! The Consoles service.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use unixfd::Fds;

use super::service::Service;
use crate::{
    access::Caller,
    error::Error,
    ops::{
        inspect::display,
        run::console::{self, Output, Which},
    },
    pb::{self, attach_request::Message, open_display_request},
};

/// Bytes of a picture in one message.
const PICTURE_CHUNK: usize = 256 << 10;

/// The answers to a caller who was connected: first that he is, then what the device says.
fn connected<T: Default + Send + 'static>(
    output: Output,
    answer: fn(Bytes) -> T,
) -> Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>> {
    let answers = output.map(move |data| data.map(answer).map_err(Status::from));
    Box::pin(futures_util::stream::once(async { Ok(T::default()) }).chain(answers))
}

#[tonic::async_trait]
impl pb::consoles_server::Consoles for Service {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<pb::AttachResponse, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<Streaming<pb::AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let caller = Caller::of(&request)?;
        let mut input = request.into_inner();
        let first = input.message().await?.and_then(|m| m.message);
        let Some(Message::Open(open)) = first else {
            return Err(Error::argument("the first message does not say which device to open").into());
        };
        let domain = self.domain(&caller, open.domain.as_ref())?;
        let which = Which {
            device: open.device,
            channel: open.channel,
            force: open.force,
        };
        let input = input.filter_map(|message| async {
            match message.ok()?.message? {
                Message::Data(data) => Some(data),
                Message::Open(_) => None,
            }
        });
        let output = console::attach(&self.driver, &domain, which, input).await?;
        Ok(Response::new(connected(output, |data| pb::AttachResponse {
            data,
        })))
    }

    type ScreenshotStream = Pin<Box<dyn Stream<Item = Result<pb::ScreenshotResponse, Status>> + Send>>;

    async fn screenshot(
        &self,
        request: Request<pb::ScreenshotRequest>,
    ) -> Result<Response<Self::ScreenshotStream>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let domain = self.domain(&caller, request.domain.as_ref())?;
        let picture = display::screenshot(&self.driver, &domain, request.screen).await?;
        let first = pb::ScreenshotResponse {
            mime_type: picture.mime.to_owned(),
            data: Bytes::new(),
        };
        let mut rest = Bytes::from(picture.bytes);
        let chunks = std::iter::from_fn(move || {
            let next = rest.split_to(rest.len().min(PICTURE_CHUNK));
            (!next.is_empty()).then(|| pb::ScreenshotResponse {
                data: next,
                ..Default::default()
            })
        });
        let messages = std::iter::once(first).chain(chunks).map(Ok);
        Ok(Response::new(Box::pin(futures_util::stream::iter(messages))))
    }

    type OpenDisplayStream = Pin<Box<dyn Stream<Item = Result<pb::OpenDisplayResponse, Status>> + Send>>;

    /// A caller in this process may hand over the client's own socket: it is joined to the display, and nothing follows.
    async fn open_display(
        &self,
        request: Request<Streaming<pb::OpenDisplayRequest>>,
    ) -> Result<Response<Self::OpenDisplayStream>, Status> {
        use open_display_request::Message;
        let own = request.extensions().get::<Fds>().cloned();
        let caller = Caller::of(&request)?;
        let mut input = request.into_inner();
        let Some(Message::Open(open)) = input.message().await?.and_then(|m| m.message) else {
            return Err(Error::argument("the first message does not say which display to open").into());
        };
        let domain = self.domain(&caller, open.domain.as_ref())?;
        let which = display::Which {
            index: open.index,
            skip_auth: open.skip_authentication,
        };
        let own = own
            .map(|fds| fds.try_clone())
            .transpose()?
            .and_then(|fds| fds.into_iter().next());
        let output: Output = match own {
            Some(socket) => {
                display::connect(&self.driver, &domain, which, socket).await?;
                Box::pin(futures_util::stream::empty())
            }
            None => {
                let input = input.filter_map(|message| async {
                    match message.ok()?.message? {
                        Message::Data(data) => Some(data),
                        Message::Open(_) => None,
                    }
                });
                display::open(&self.driver, &domain, which, input).await?
            }
        };
        Ok(Response::new(connected(output, |data| pb::OpenDisplayResponse {
            data,
        })))
    }
}
