package ir

import "google.golang.org/protobuf/encoding/protowire"

// The fields of onnx.proto that this package reads and writes, in the order of the messages there.
const (
	attrName    protowire.Number = 1
	attrF       protowire.Number = 2
	attrI       protowire.Number = 3
	attrS       protowire.Number = 4
	attrT       protowire.Number = 5
	attrG       protowire.Number = 6
	attrFloats  protowire.Number = 7
	attrInts    protowire.Number = 8
	attrStrings protowire.Number = 9
	attrTensors protowire.Number = 10
	attrGraphs  protowire.Number = 11
	attrType    protowire.Number = 20

	infoName protowire.Number = 1
	infoType protowire.Number = 2

	nodeInput     protowire.Number = 1
	nodeOutput    protowire.Number = 2
	nodeName      protowire.Number = 3
	nodeOpType    protowire.Number = 4
	nodeAttribute protowire.Number = 5
	nodeDomain    protowire.Number = 7

	modelIRVersion       protowire.Number = 1
	modelProducerName    protowire.Number = 2
	modelProducerVersion protowire.Number = 3
	modelDomain          protowire.Number = 4
	modelVersion         protowire.Number = 5
	modelDoc             protowire.Number = 6
	modelGraph           protowire.Number = 7
	modelOpset           protowire.Number = 8
	modelMetadata        protowire.Number = 14
	modelTraining        protowire.Number = 20
	modelFunction        protowire.Number = 25

	propertyKey   protowire.Number = 1
	propertyValue protowire.Number = 2

	graphNode              protowire.Number = 1
	graphName              protowire.Number = 2
	graphInitializer       protowire.Number = 5
	graphInput             protowire.Number = 11
	graphOutput            protowire.Number = 12
	graphValueInfo         protowire.Number = 13
	graphSparseInitializer protowire.Number = 15

	tensorDims         protowire.Number = 1
	tensorDType        protowire.Number = 2
	tensorSegment      protowire.Number = 3
	tensorFloatData    protowire.Number = 4
	tensorInt32Data    protowire.Number = 5
	tensorStringData   protowire.Number = 6
	tensorInt64Data    protowire.Number = 7
	tensorName         protowire.Number = 8
	tensorRawData      protowire.Number = 9
	tensorDoubleData   protowire.Number = 10
	tensorUint64Data   protowire.Number = 11
	tensorExternalData protowire.Number = 13
	tensorDataLocation protowire.Number = 14

	shapeDim protowire.Number = 1
	dimValue protowire.Number = 1
	dimParam protowire.Number = 2

	typeTensor         protowire.Number = 1
	tensorTypeElemType protowire.Number = 1
	tensorTypeShape    protowire.Number = 2

	opsetDomain  protowire.Number = 1
	opsetVersion protowire.Number = 2

	functionName   protowire.Number = 1
	functionDomain protowire.Number = 10
)
