//! The Consoles service.

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::convert;
use crate::{
    error::Error,
    ops::{
        Driver,
        console::{self, Which},
    },
    pb::{self, attach_request::Message},
};

#[derive(Clone)]
pub(super) struct Service {
    driver: Arc<Driver>,
}

impl Service {
    pub(super) fn new(driver: &Arc<Driver>) -> Self {
        Self { driver: Arc::clone(driver) }
    }
}

#[tonic::async_trait]
impl pb::consoles_server::Consoles for Service {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<pb::AttachResponse, Status>> + Send>>;

    async fn attach(&self, request: Request<Streaming<pb::AttachRequest>>) -> Result<Response<Self::AttachStream>, Status> {
        let mut input = request.into_inner();
        let first = input.message().await?.and_then(|m| m.message);
        let Some(Message::Open(open)) = first else {
            return Err(Error::argument("the first message does not say which device to open").into());
        };
        let domain = convert::find(&self.driver, open.domain)?;
        let which = Which { device: open.device, channel: open.channel, force: open.force };
        let input = input.filter_map(|message| async {
            match message.ok()?.message? {
                Message::Data(data) => Some(data),
                Message::Open(_) => None,
            }
        });
        let output = console::attach(&self.driver, &domain, which, input).await?;
        let answers = output.map(|data| data.map(|data| pb::AttachResponse { data }).map_err(Status::from));
        let connected = futures_util::stream::once(async { Ok(pb::AttachResponse::default()) });
        Ok(Response::new(Box::pin(connected.chain(answers))))
    }
}
