//! A service that answers from memory: what the front needs of the daemon, and no more.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http_body_util::{BodyExt, StreamBody};
use prost::Message;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use tower::service_fn;
use unixfd::{Fds, Peer};
use virtqemud_client::proto;

/// The only guest there is.
pub(crate) const GUEST: (&str, &str, i32) = ("demo", "11111111-2222-3333-4444-555555555555", 3);

/// Requests that change something: the call, and its bytes.
type Changes = Vec<(String, Vec<u8>)>;

/// What the test sees and steers of the service.
#[derive(Clone)]
pub(crate) struct Fake {
    /// Sends events to every watch.
    pub(crate) events: broadcast::Sender<proto::Event>,
    /// Callers and their descriptors, as they came with requests.
    pub(crate) seen: Arc<std::sync::Mutex<Vec<(Peer, usize)>>>,
    /// Requests that change something, by call.
    changes: Arc<std::sync::Mutex<Changes>>,
}

impl Fake {
    pub(crate) fn new() -> Self {
        Self {
            events: broadcast::channel(65_536).0,
            seen: Arc::default(),
            changes: Arc::default(),
        }
    }

    pub(crate) fn service(&self) -> compat::Backend {
        let fake = self.clone();
        compat::Backend {
            calls: Arc::new(self.clone()),
            streams: compat::Stack::new(service_fn(move |request| {
                std::future::ready(Ok::<_, Infallible>(fake.stream(request)))
            })),
        }
    }

    fn stream(&self, request: http::Request<Body>) -> http::Response<Body> {
        let peer = *request.extensions().get::<Peer>().unwrap();
        let fds = request.extensions().get::<Fds>().map_or(0, Fds::len);
        self.seen.lock().unwrap().push((peer, fds));
        match request.uri().path() {
            "/virtqemud.v1.Consoles/Attach" => attach(request.into_body()),
            "/virtqemud.v1.Events/Watch" => self.watch(),
            path => respond(futures_util::stream::iter([Err(Status::unimplemented(path))])),
        }
    }

    async fn call(&self, whole: &str, asked: compat::Asked, body: Bytes) -> Result<Bytes, Status> {
        self.seen
            .lock()
            .unwrap()
            .push((asked.caller.peer, asked.fds.len()));
        let path = whole.rsplit('/').next().unwrap();
        match path {
            "GetVersions" => Ok(bytes(&proto::GetVersionsResponse {
                libvirt_api: 11_003_000,
                ..Default::default()
            })),
            "GetInfo" if whole.contains(".Host/") => {
                // Slow on purpose: a call that waits for somebody.
                tokio::time::sleep(Duration::from_millis(300)).await;
                Ok(bytes(&proto::GetInfoResponse {
                    hostname: "here".into(),
                    ..Default::default()
                }))
            }
            "GetMaxVcpus" => Ok(bytes(&proto::GetMaxVcpusResponse { max_vcpus: 16 })),
            "Get" if whole.contains(".Domains/") => get(&proto::GetRequest::decode(&body[..]).unwrap()),
            _ if whole.contains(".Disks/") => disk(path, &body),
            _ if whole.contains(".GuestAgent/") => self.agent(path, &body),
            "SendKeys" | "Wake" => {
                self.keep(path, &body);
                Ok(bytes(&proto::Domain::default()))
            }
            _ => about(whole, &body),
        }
    }

    fn keep(&self, call: &str, request: &[u8]) {
        let kept = (call.to_owned(), request.to_vec());
        self.changes.lock().unwrap().push(kept);
    }

    /// The last request of this call, of those that change something.
    pub(crate) fn last<R: Message + Default>(&self, call: &str) -> R {
        let changes = self.changes.lock().unwrap();
        let (_, request) = changes.iter().rfind(|(name, _)| name == call).unwrap();
        R::decode(request.as_slice()).unwrap()
    }

    /// Four CPUs, of which the second is offline and all but the first could be; one filesystem; changes are kept.
    fn agent(&self, call: &str, request: &[u8]) -> Result<Bytes, Status> {
        Ok(match call {
            "ListVcpus" => bytes(&proto::ListGuestVcpusResponse {
                vcpus: (0..4)
                    .map(|number| proto::list_guest_vcpus_response::Vcpu {
                        number,
                        online: number != 1,
                        can_offline: number != 0,
                    })
                    .collect(),
            }),
            "ListFilesystems" => bytes(&proto::ListGuestFilesystemsResponse {
                filesystems: vec![proto::GuestFilesystem {
                    mount_point: "/".into(),
                    name: "dm-0".into(),
                    r#type: "xfs".into(),
                    disks: ["vda", ""]
                        .map(|target| proto::guest_filesystem::Disk {
                            target: target.into(),
                            ..Default::default()
                        })
                        .into(),
                    ..Default::default()
                }],
            }),
            "ListAuthorizedKeys" => bytes(&proto::ListAuthorizedKeysResponse {
                keys: vec!["ssh-rsa a".into()],
            }),
            "GetInfo" => {
                self.keep(call, request);
                bytes(&proto::GuestInfo {
                    hostname: Some("inside".into()),
                    ..Default::default()
                })
            }
            // All of them answer with nothing.
            _ => {
                self.keep(call, request);
                bytes(&proto::SetGuestTimeResponse {})
            }
        })
    }

    fn watch(&self) -> http::Response<Body> {
        let events = BroadcastStream::new(self.events.subscribe()).map(|event| match event {
            Ok(event) => {
                let item = Some(proto::watch_response::Item::Event(event));
                Ok(frame(&proto::WatchResponse { item }))
            }
            Err(_) => Err(Status::resource_exhausted("slow")),
        });
        respond(events)
    }
}

impl compat::Unary for Fake {
    fn unary(&self, path: &'static str, asked: compat::Asked, request: Bytes) -> compat::Answer {
        let fake = self.clone();
        Box::pin(async move { fake.call(path, asked, request).await })
    }
}

/// Two snapshots, one of them current, one event that is counted; nothing else.
fn about(path: &str, request: &[u8]) -> Result<Bytes, Status> {
    let snapshot = |name: &str, parent: &str| proto::Snapshot {
        name: name.into(),
        parent: parent.into(),
        current: !parent.is_empty(),
        ..Default::default()
    };
    let (first, second) = (snapshot("first", ""), snapshot("second", "first"));
    Ok(match path.trim_start_matches("/virtqemud.v1.") {
        "Snapshots/List" => {
            let wanted = proto::ListSnapshotsRequest::decode(request).unwrap();
            let external = wanted.filter.and_then(|filter| filter.external);
            let snapshots = match (external, wanted.roots) {
                (Some(true), _) => Vec::new(),
                (_, true) => vec![first],
                _ => vec![first, second],
            };
            bytes(&proto::ListSnapshotsResponse {
                total_size: i32::try_from(snapshots.len()).unwrap(),
                snapshots,
                ..Default::default()
            })
        }
        "Snapshots/Get" => match proto::GetSnapshotRequest::decode(request).unwrap().name.as_str() {
            "" | "second" => bytes(&second),
            "first" => bytes(&first),
            name => {
                return Err(Status::not_found(format!(
                    "no domain snapshot with matching name '{name}'"
                )));
            }
        },
        "Checkpoints/Get" => {
            let name = proto::GetCheckpointRequest::decode(request).unwrap().name;
            return Err(Status::not_found(format!(
                "no domain checkpoint with matching name '{name}'"
            )));
        }
        "Checkpoints/List" => bytes(&proto::ListCheckpointsResponse::default()),
        "PerfEvents/List" => bytes(&proto::ListPerfEventsResponse {
            events: vec!["cpu_cycles".into()],
        }),
        "LaunchSecurity/Get" => bytes(&proto::GetLaunchSecurityResponse {
            kind: proto::get_launch_security_response::Kind::None.into(),
        }),
        _ => return Err(Status::unimplemented(path)),
    })
}

/// A disk "vda" with limits and sizes, and a job on "vdb".
fn disk(path: &str, request: &[u8]) -> Result<Bytes, Status> {
    use proto::disk_limits::{Rate, Rates};
    let rate = |average| {
        Some(Rate {
            average,
            ..Rate::default()
        })
    };
    Ok(match path {
        "GetSizes" => bytes(&proto::DiskSizes {
            capacity: 3,
            allocation: 1,
            physical: 2,
        }),
        "GetLimits" => bytes(&proto::DiskLimits {
            bytes: Some(Rates {
                total: rate(1),
                ..Rates::default()
            }),
            operations: Some(Rates {
                write: rate(6),
                ..Rates::default()
            }),
            group: "g".into(),
            ..Default::default()
        }),
        _ => {
            let target = proto::GetDiskJobRequest::decode(request).unwrap().disk;
            let job = (target == "vdb").then(|| proto::DiskJob {
                kind: proto::disk_job::Kind::Copy.into(),
                bandwidth: (1 << 20) + 1,
                done: 5,
                total: 9,
            });
            bytes(&proto::GetDiskJobResponse { target, job })
        }
    })
}

fn get(request: &proto::GetRequest) -> Result<Bytes, Status> {
    use proto::domain_ref::Ref;
    let (name, uuid, id) = GUEST;
    let (found, what) = match request
        .domain
        .as_ref()
        .and_then(|domain| domain.r#ref.as_ref())
        .unwrap()
    {
        Ref::Name(asked) => (asked == name, format!("no domain with matching name '{asked}'")),
        Ref::Uuid(asked) => (asked == uuid, format!("no domain with matching uuid '{asked}'")),
        Ref::Id(asked) => (*asked == id, format!("no domain with matching id {asked}")),
    };
    if found {
        return Ok(bytes(&proto::Domain {
            uuid: uuid.into(),
            name: name.into(),
            id,
            managed_save: true,
            ..Default::default()
        }));
    }
    let metadata = [
        ("libvirt_code", "42"),
        ("libvirt_domain", "10"),
        ("libvirt_detail", &what),
    ];
    let metadata: HashMap<_, _> = metadata
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    let details = ErrorDetails::with_error_info("NO_DOMAIN", "virtqemud", metadata);
    Err(Status::with_error_details(
        Code::NotFound,
        format!("Domain not found: {what}"),
        details,
    ))
}

/// A console that says what it hears and ends at "bye"; what begins with "#" it only takes, and slowly.
fn attach(body: Body) -> http::Response<Body> {
    let connected = futures_util::stream::iter([Ok(frame(&proto::AttachResponse::default()))]);
    let heard = body
        .into_data_stream()
        .flat_map(|data| futures_util::stream::iter(messages(data.unwrap())));
    let heard = heard.filter_map(|request| async {
        let data = match request.message {
            Some(proto::attach_request::Message::Data(data)) => data,
            _ => return None,
        };
        if data.starts_with(b"#") {
            tokio::time::sleep(Duration::from_millis(1)).await;
            return None;
        }
        Some(data)
    });
    let heard = Box::pin(heard);
    let heard = heard.take_while(|data| std::future::ready(&data[..] != b"bye"));
    respond(connected.chain(heard.map(|data| Ok(frame(&proto::AttachResponse { data })))))
}

/// The requests of a piece of a body, which holds whole ones.
fn messages(mut data: Bytes) -> Vec<proto::AttachRequest> {
    let mut messages = Vec::new();
    while data.len() >= 5 {
        let len = data.split_to(5).slice(1..).get_u32() as usize;
        messages.push(proto::AttachRequest::decode(data.split_to(len)).unwrap());
    }
    messages
}

fn bytes(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

fn frame(message: &impl Message) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(0);
    out.put_u32(u32::try_from(message.encoded_len()).unwrap());
    message.encode(&mut out).unwrap();
    out.freeze()
}

fn respond(messages: impl Stream<Item = Result<Bytes, Status>> + Send + 'static) -> http::Response<Body> {
    let ok = futures_util::stream::iter([Err(Status::ok(""))]);
    let frames = messages.chain(ok).scan(false, |over, message| {
        if std::mem::replace(over, message.is_err()) {
            return std::future::ready(None);
        }
        let frame = message.map_or_else(
            |status| {
                let mut trailers = http::HeaderMap::new();
                status.add_header(&mut trailers).unwrap();
                http_body::Frame::trailers(trailers)
            },
            http_body::Frame::data,
        );
        std::future::ready(Some(Ok::<_, Status>(frame)))
    });
    let response = http::Response::builder().header("content-type", "application/grpc");
    response.body(Body::new(StreamBody::new(frames))).unwrap()
}
