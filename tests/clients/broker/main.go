// A Kafka cluster of three brokers whose metadata names them b0.SUFFIX, b1.SUFFIX and b2.SUFFIX, as a managed Kafka behind
// PrivateLink does: one port each from 9092 on, at every address that is given.
//
//	broker CLUSTER SUFFIX ADDRESS…
//
// Its topic `tenant` has a partition led by each broker, with one message, "CLUSTER at PARTITION". Prints `ready`, then
// `broker N accepted at ADDRESS` for each connection. Ends with its standard input.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	brokers   = 3
	firstPort = 9092
	topic     = "tenant"
)

func main() {
	if len(os.Args) < 4 {
		fail(fmt.Errorf("usage: broker CLUSTER SUFFIX ADDRESS…"))
	}
	if err := serve(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func serve(name, suffix string, addresses []string) error {
	accepted := make(chan string, 1024)
	next := 0
	cluster, err := kfake.NewCluster(
		kfake.NumBrokers(brokers),
		kfake.ClusterID(name),
		kfake.SeedTopics(brokers, topic),
		// The library listens at the addresses in its metadata.
		kfake.ListenFn(func(string, string) (net.Listener, error) {
			broker := next
			next++
			return listen(broker, suffix, addresses, accepted)
		}),
	)
	if err != nil {
		return err
	}
	defer cluster.Close()
	for partition := range int32(brokers) {
		if err := cluster.MoveTopicPartition(topic, partition, partition); err != nil {
			return err
		}
	}
	if err := fill(name, addresses[0]); err != nil {
		return err
	}
	for len(accepted) > 0 {
		<-accepted
	}
	fmt.Println("ready")
	go func() {
		for line := range accepted {
			fmt.Println(line)
		}
	}()
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// Writes the messages through the brokers' own protocol; this process does not resolve the brokers' names.
func fill(name, address string) error {
	at := func(_ context.Context, network, host string) (net.Conn, error) {
		_, port, err := net.SplitHostPort(host)
		if err != nil {
			return nil, err
		}
		return net.Dial(network, net.JoinHostPort(address, port))
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(net.JoinHostPort(address, strconv.Itoa(firstPort))),
		kgo.Dialer(at),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
	)
	if err != nil {
		return err
	}
	defer client.Close()
	patience, done := context.WithTimeout(context.Background(), time.Minute)
	defer done()
	for partition := range int32(brokers) {
		value := fmt.Sprintf("%s at %d", name, partition)
		record := &kgo.Record{Topic: topic, Partition: partition, Value: []byte(value)}
		if err := client.ProduceSync(patience, record).FirstErr(); err != nil {
			return err
		}
	}
	return nil
}

// One broker: several sockets under one advertised name.
type listener struct {
	name        string
	sockets     []net.Listener
	connections chan net.Conn
	closed      chan struct{}
}

func listen(broker int, suffix string, addresses []string, accepted chan<- string) (net.Listener, error) {
	port := strconv.Itoa(firstPort + broker)
	own := &listener{
		name:        net.JoinHostPort(fmt.Sprintf("b%d.%s", broker, suffix), port),
		connections: make(chan net.Conn),
		closed:      make(chan struct{}),
	}
	for _, address := range addresses {
		socket, err := net.Listen("tcp", net.JoinHostPort(address, port))
		if err != nil {
			return nil, err
		}
		own.sockets = append(own.sockets, socket)
		go func() {
			for {
				connection, err := socket.Accept()
				if err != nil {
					return
				}
				accepted <- fmt.Sprintf("broker %d accepted at %s", broker, address)
				select {
				case own.connections <- connection:
				case <-own.closed:
					connection.Close()
					return
				}
			}
		}()
	}
	return own, nil
}

func (own *listener) Accept() (net.Conn, error) {
	select {
	case connection := <-own.connections:
		return connection, nil
	case <-own.closed:
		return nil, net.ErrClosed
	}
}

func (own *listener) Close() error {
	for _, socket := range own.sockets {
		socket.Close()
	}
	close(own.closed)
	return nil
}

func (own *listener) Addr() net.Addr { return own }

func (own *listener) Network() string { return "tcp" }

func (own *listener) String() string { return own.name }
