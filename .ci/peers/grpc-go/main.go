// The standard interop service of gRPC for Go, and a client of it, on an address of one's choice and by mutual TLS:
//
//	grpc-go serve -addr 127.0.0.1:0 [-cert F -key F -ca F]
//	grpc-go call -addr 127.0.0.1:8080 -case large_unary [-cert F -key F -ca F -identity spiffe://..]
//
// The interop server that comes with gRPC for Go listens on all addresses of the machine, and neither it nor the interop
// client has a certificate of a client's. Files are PEM, and read once.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"sort"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/reflection"
)

// How long a case may take: some wait on purpose, none for long.
const patience = 30 * time.Second

type files struct{ cert, key, ca string }

func (f *files) flags(set *flag.FlagSet) {
	set.StringVar(&f.cert, "cert", "", "certificate chain")
	set.StringVar(&f.key, "key", "", "its private key")
	set.StringVar(&f.ca, "ca", "", "who is trusted")
}

// load gives nothing if no file is named: plaintext.
func (f *files) load() (*tls.Certificate, *x509.CertPool, error) {
	if *f == (files{}) {
		return nil, nil, nil
	}
	pair, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return nil, nil, err
	}
	pem, err := os.ReadFile(f.ca)
	if err != nil {
		return nil, nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, nil, fmt.Errorf("%s: no certificate in it", f.ca)
	}
	return &pair, roots, nil
}

// spiffe is the identity in the certificate of the peer of a call, or nothing.
func spiffe(state tls.ConnectionState) string {
	if len(state.PeerCertificates) == 0 || len(state.PeerCertificates[0].URIs) != 1 {
		return ""
	}
	return state.PeerCertificates[0].URIs[0].String()
}

// tell sends who the caller is, in the header x-peer-identity, with every answer that comes after it.
func tell(ctx context.Context, send func(metadata.MD) error) {
	if caller, ok := peer.FromContext(ctx); ok {
		if info, ok := caller.AuthInfo.(credentials.TLSInfo); ok {
			_ = send(metadata.Pairs("x-peer-identity", spiffe(info.State)))
		}
	}
}

func serve(arguments []string) error {
	set := flag.NewFlagSet("serve", flag.ExitOnError)
	addr := set.String("addr", "127.0.0.1:0", "where to listen; port 0 is any")
	var with files
	with.flags(set)
	_ = set.Parse(arguments)
	pair, roots, err := with.load()
	if err != nil {
		return err
	}
	options := []grpc.ServerOption{
		grpc.UnaryInterceptor(func(ctx context.Context, in any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			tell(ctx, func(header metadata.MD) error { return grpc.SetHeader(ctx, header) })
			return handle(ctx, in)
		}),
		grpc.StreamInterceptor(func(service any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
			tell(stream.Context(), stream.SetHeader)
			return handle(service, stream)
		}),
	}
	if pair != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(&tls.Config{
			Certificates: []tls.Certificate{*pair},
			ClientAuth:   tls.RequireAndVerifyClientCert,
			ClientCAs:    roots,
		})))
	}
	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		return err
	}
	server := grpc.NewServer(options...)
	testgrpc.RegisterTestServiceServer(server, interop.NewTestServer())
	healthgrpc.RegisterHealthServer(server, health.NewServer())
	reflection.Register(server)
	asked, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go func() {
		<-asked.Done()
		server.GracefulStop()
	}()
	log.Printf("listening on %v", listener.Addr())
	return server.Serve(listener)
}

var cases = map[string]func(context.Context, testgrpc.TestServiceClient, *grpc.ClientConn){
	"empty_unary":                 plain(interop.DoEmptyUnaryCall),
	"large_unary":                 plain(interop.DoLargeUnaryCall),
	"client_streaming":            plain(interop.DoClientStreaming),
	"server_streaming":            plain(interop.DoServerStreaming),
	"ping_pong":                   plain(interop.DoPingPong),
	"empty_stream":                plain(interop.DoEmptyStream),
	"timeout_on_sleeping_server":  plain(interop.DoTimeoutOnSleepingServer),
	"cancel_after_begin":          plain(interop.DoCancelAfterBegin),
	"cancel_after_first_response": plain(interop.DoCancelAfterFirstResponse),
	"status_code_and_message":     plain(interop.DoStatusCodeAndMessage),
	"special_status_message":      plain(interop.DoSpecialStatusMessage),
	"custom_metadata":             plain(interop.DoCustomMetadata),
	"unimplemented_method": func(ctx context.Context, _ testgrpc.TestServiceClient, conn *grpc.ClientConn) {
		interop.DoUnimplementedMethod(ctx, conn)
	},
	"unimplemented_service": func(ctx context.Context, _ testgrpc.TestServiceClient, conn *grpc.ClientConn) {
		interop.DoUnimplementedService(ctx, testgrpc.NewUnimplementedServiceClient(conn))
	},
}

func plain(do func(context.Context, testgrpc.TestServiceClient, ...grpc.CallOption)) func(context.Context, testgrpc.TestServiceClient, *grpc.ClientConn) {
	return func(ctx context.Context, client testgrpc.TestServiceClient, _ *grpc.ClientConn) { do(ctx, client) }
}

func call(arguments []string) error {
	set := flag.NewFlagSet("call", flag.ExitOnError)
	addr := set.String("addr", "", "the server")
	name := set.String("case", "", "cases, with commas between them, or all")
	identity := set.String("identity", "", "who the server must be: a SPIFFE id")
	var with files
	with.flags(set)
	_ = set.Parse(arguments)
	pair, roots, err := with.load()
	if err != nil {
		return err
	}
	security := insecure.NewCredentials()
	if pair != nil {
		security = credentials.NewTLS(&tls.Config{
			Certificates: []tls.Certificate{*pair},
			// Identities are no names of hosts: the chain and the identity are verified here, the name is not.
			InsecureSkipVerify: true,
			VerifyConnection: func(state tls.ConnectionState) error {
				intermediates := x509.NewCertPool()
				for _, certificate := range state.PeerCertificates[1:] {
					intermediates.AddCert(certificate)
				}
				_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates})
				if err == nil && spiffe(state) != *identity {
					err = fmt.Errorf("the server is %q, not %q", spiffe(state), *identity)
				}
				return err
			},
		})
	}
	conn, err := grpc.NewClient(*addr, grpc.WithTransportCredentials(security))
	if err != nil {
		return err
	}
	defer conn.Close()
	names := strings.Split(*name, ",")
	if *name == "all" {
		names = names[:0]
		for name := range cases {
			names = append(names, name)
		}
		sort.Strings(names)
	}
	client := testgrpc.NewTestServiceClient(conn)
	for _, name := range names {
		do, known := cases[name]
		if !known {
			return fmt.Errorf("no case %q", name)
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		// Ends the program with a line that says why, if it fails.
		do(ctx, client, conn)
		cancel()
		log.Printf("%s passed", name)
	}
	return nil
}

func main() {
	commands := map[string]func([]string) error{"serve": serve, "call": call}
	err := errors.New("usage: grpc-go serve|call [FLAGS]")
	if len(os.Args) > 1 {
		if os.Args[1] == "--version" {
			fmt.Println("gRPC for Go", grpc.Version)
			return
		}
		if run, known := commands[os.Args[1]]; known {
			err = run(os.Args[2:])
		}
	}
	if err != nil {
		log.Fatal(err)
	}
}
