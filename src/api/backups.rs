//! The Backups service.

use domxml::{
    devices::YesNo,
    moment::{Backup, BackupDisk, BackupTransport},
};
use tonic::{Request, Response};

use super::{
    convert,
    service::{Answer, Service},
};
use crate::{
    access::{Caller, Permission},
    ops::backups::{self, begin},
    pb::{
        self,
        backup_server::{Address, Export, TcpAddress},
    },
};

#[tonic::async_trait]
impl pb::backups_server::Backups for Service {
    async fn begin(&self, request: Request<pb::BeginBackupRequest>) -> Answer<pb::BeginBackupResponse> {
        self.mutate(request, |call| async move {
            let of = call.request.domain.as_ref();
            let domain = call.domain(of)?;
            call.domain_for(of, Permission::DomainBlockWrite)?;
            let r = call.request;
            let wish = begin::Wish {
                backup: r.xml,
                checkpoint: Some(r.checkpoint_xml).filter(|xml| !xml.is_empty()),
                reuse: r.reuse_images,
            };
            let begun = Box::pin(begin::begin(&call.driver, &domain, wish, &call.conditions)).await?;
            Ok(pb::BeginBackupResponse {
                domain: Some(convert::full(&begun.view)),
                operation_id: begun.operation.map(|id| id.to_string()).unwrap_or_default(),
                server: backups::under_way(&begun.view).and_then(server),
            })
        })
        .await
    }

    async fn get_xml(&self, request: Request<pb::GetBackupXmlRequest>) -> Answer<pb::GetBackupXmlResponse> {
        let caller = Caller::of(&request)?;
        let domain = self.domain(&caller, request.get_ref().domain.as_ref())?;
        let view = domain.view();
        Ok(Response::new(pb::GetBackupXmlResponse {
            xml: backups::text(&view)?,
            server: backups::under_way(&view).and_then(server),
        }))
    }
}

/// Where a backup is served, if it is.
fn server(backup: &Backup) -> Option<pb::BackupServer> {
    let server = backup.server.as_ref().filter(|_| backup.is_pull())?;
    let tcp = || TcpAddress {
        host: server.name.clone().unwrap_or_default(),
        port: server.port.unwrap_or_default(),
    };
    let address = match server.transport.known() {
        Some(BackupTransport::Tcp) => Some(Address::Tcp(tcp())),
        Some(BackupTransport::Unix) => server.socket.clone().map(Address::Socket),
        Some(BackupTransport::Fd) | None => None,
    };
    let export = |disk: &BackupDisk| Export {
        disk: disk.name.clone(),
        name: disk.exportname.as_ref().unwrap_or(&disk.name).clone(),
        bitmap: disk.exportbitmap.clone().unwrap_or_default(),
    };
    Some(pb::BackupServer {
        tls: server.tls.is_some_and(YesNo::is_yes),
        exports: backup.parts().map(export).collect(),
        address,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_that_is_fetched_says_where() {
        let of = |mode: &str, server: &str| {
            let disks = "<disk name='vda' backup='yes' type='file' exportname='A' exportbitmap='b'/>\
                         <disk name='vdb' backup='yes' type='file'/><disk name='vdc' backup='no'/>";
            let text = format!("<domainbackup mode='{mode}'>{server}<disks>{disks}</disks></domainbackup>");
            server_of(&text)
        };
        let socket = of("pull", "<server transport='unix' socket='/s'/>").unwrap();
        assert_eq!(socket.address, Some(Address::Socket("/s".to_owned())));
        let exports = socket.exports.iter();
        let exports: Vec<_> = exports.map(|e| [&*e.disk, &*e.name, &*e.bitmap]).collect();
        assert_eq!(exports, [["vda", "A", "b"], ["vdb", "vdb", ""]]);
        let tcp = of("pull", "<server transport='tcp' tls='yes' name='h' port='7'/>").unwrap();
        let (host, port) = ("h".to_owned(), 7);
        assert_eq!(
            (tcp.address, tcp.tls),
            (Some(Address::Tcp(TcpAddress { host, port })), true)
        );
        assert_eq!(of("push", ""), None);
    }

    fn server_of(text: &str) -> Option<pb::BackupServer> {
        server(&Backup::given(text).expect("a document"))
    }
}
