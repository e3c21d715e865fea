"""The networks of the peers in plain PyTorch, with Cohort's tensor names: CIFAR ResNets, wide ResNets, VGG, MobileNets and
ShuffleNets. Each returns its logits and its last map."""
import sys

import torch
import torch.nn as nn
import torch.nn.functional as F


class BasicBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + shortcut)


class ResNet(nn.Module):
    """CIFAR ResNet-6n+2, 1x1 convolution and BN as shortcut (the RepDistiller flavour)."""

    def __init__(self, depth, classes):
        super().__init__()
        n = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(n, 16, 16, 1)
        self.layer2 = self._stage(n, 16, 32, 2)
        self.layer3 = self._stage(n, 32, 64, 2)
        self.fc = nn.Linear(64, classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _stage(n, inputs, outputs, stride):
        return nn.Sequential(*[BasicBlock(inputs if i == 0 else outputs, outputs, stride if i == 0 else 1)
                               for i in range(n)])

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        features = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(features.mean((2, 3))), features


class WideBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.convShortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x):
        y = F.relu(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(y)
        y = self.conv2(F.relu(self.bn2(self.conv1(y))))
        return y + shortcut


class WideGroup(nn.Module):
    def __init__(self, n, inputs, outputs, stride):
        super().__init__()
        self.layer = nn.Sequential(*[WideBlock(inputs if i == 0 else outputs, outputs, stride if i == 0 else 1)
                                     for i in range(n)])

    def forward(self, x):
        return self.layer(x)


class WideResNet(nn.Module):
    def __init__(self, depth, width, classes):
        super().__init__()
        n = (depth - 4) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.block1 = WideGroup(n, 16, 16 * width, 1)
        self.block2 = WideGroup(n, 16 * width, 32 * width, 2)
        self.block3 = WideGroup(n, 32 * width, 64 * width, 2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, classes)

    def forward(self, x):
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        features = F.relu(self.bn1(x))
        return self.fc(features.mean((2, 3))), features


class Vgg(nn.Module):
    def __init__(self, depth, classes):
        super().__init__()
        per_block = (depth - 3) // 5
        inputs = 3
        for index, width in enumerate((64, 128, 256, 512, 512)):
            layers = []
            for _ in range(per_block):
                layers += [nn.Conv2d(inputs, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU()]
                inputs = width
            setattr(self, f"block{index}", nn.Sequential(*layers))
        self.classifier = nn.Linear(512, classes)

    def forward(self, x):
        for index in range(5):
            x = getattr(self, f"block{index}")(x)
            if index < 3:
                x = F.max_pool2d(x, 2)
        return self.classifier(x.mean((2, 3))), x


def conv_norm(inputs, outputs, kernel=1, stride=1, groups=1):
    """A convolution and its normalisation, to be spread over a Sequential or over names."""
    return (nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs))


class Units(nn.Module):
    """conv1, bn1, conv2, bn2, ...: unit(i, x) is bn_i(conv_i(x))."""

    def __init__(self, *pairs):
        super().__init__()
        for i, (conv, norm) in enumerate(pairs, 1):
            setattr(self, f"conv{i}", conv)
            setattr(self, f"bn{i}", norm)

    def unit(self, i, x):
        return getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x))


class InvertedResidual(nn.Module):
    def __init__(self, inputs, outputs, stride, expansion):
        super().__init__()
        wide = inputs * expansion
        self.conv = nn.Sequential(*conv_norm(inputs, wide), nn.ReLU(), *conv_norm(wide, wide, 3, stride, wide), nn.ReLU(),
                                  *conv_norm(wide, outputs))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2Half(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv1 = nn.Sequential(*conv_norm(3, 16, 3, 2), nn.ReLU())
        groups, inputs = [], 16
        for expansion, width, blocks, stride in ((1, 8, 1, 1), (6, 12, 2, 1), (6, 16, 3, 2), (6, 32, 4, 2), (6, 48, 3, 1),
                                                 (6, 80, 3, 2), (6, 160, 1, 1)):
            group = []
            for i in range(blocks):
                group.append(InvertedResidual(inputs, width, stride if i == 0 else 1, expansion))
                inputs = width
            groups.append(nn.Sequential(*group))
        self.blocks = nn.ModuleList(groups)
        self.conv2 = nn.Sequential(*conv_norm(inputs, 1280), nn.ReLU())
        self.classifier = nn.Sequential(nn.Linear(1280, classes))

    def forward(self, x):
        x = self.conv1(x)
        for group in self.blocks:
            x = group(x)
        x = self.conv2(x)
        return self.classifier(x.mean((2, 3))), x


class Separable(Units):
    def __init__(self, inputs, outputs, stride):
        super().__init__(conv_norm(inputs, inputs, 3, stride, inputs), conv_norm(inputs, outputs))

    def forward(self, x):
        return F.relu(self.unit(2, F.relu(self.unit(1, x))))


class MobileNetV1(Units):
    def __init__(self, classes):
        super().__init__(conv_norm(3, 32, 3))
        layers, inputs = [], 32
        for width, stride in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)):
            layers.append(Separable(inputs, width, stride))
            inputs = width
        self.layers = nn.Sequential(*layers)
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x):
        x = self.layers(F.relu(self.unit(1, x)))
        return self.linear(x.mean((2, 3))), x


def shuffle(x, groups):
    n, c, h, w = x.shape
    return x.reshape(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class Bottleneck(Units):
    """Of ShuffleNetV1; `outputs` without the input's channels, which follow where the stride is 2."""

    def __init__(self, inputs, outputs, stride):
        groups, middle = 1 if inputs == 24 else 3, outputs // 4
        super().__init__(conv_norm(inputs, middle, groups=groups), conv_norm(middle, middle, 3, stride, middle),
                         conv_norm(middle, outputs, groups=3))
        self.groups, self.stride = groups, stride

    def forward(self, x):
        y = shuffle(F.relu(self.unit(1, x)), self.groups)
        y = self.unit(3, F.relu(self.unit(2, y)))
        if self.stride == 1:
            return F.relu(y + x)
        return F.relu(torch.cat((y, F.avg_pool2d(x, 3, 2, 1)), 1))


class ShuffleNetV1(Units):
    def __init__(self, classes):
        super().__init__(conv_norm(3, 24))
        inputs = 24
        for stage, (width, blocks) in enumerate(((240, 4), (480, 8), (960, 4)), 1):
            first = Bottleneck(inputs, width - inputs, 2)
            setattr(self, f"layer{stage}",
                    nn.Sequential(first, *[Bottleneck(width, width, 1) for _ in range(blocks - 1)]))
            inputs = width
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(F.relu(self.unit(1, x)))))
        return self.linear(x.mean((2, 3))), x


class DownBlock(Units):
    def __init__(self, inputs, half):
        super().__init__(conv_norm(inputs, inputs, 3, 2, inputs), conv_norm(inputs, half), conv_norm(inputs, half),
                         conv_norm(half, half, 3, 2, half), conv_norm(half, half))

    def forward(self, x):
        left = F.relu(self.unit(2, self.unit(1, x)))
        right = F.relu(self.unit(5, self.unit(4, F.relu(self.unit(3, x)))))
        return shuffle(torch.cat((left, right), 1), 2)


class HalfBlock(Units):
    def __init__(self, half):
        super().__init__(conv_norm(half, half), conv_norm(half, half, 3, 1, half), conv_norm(half, half))

    def forward(self, x):
        passed, y = x.chunk(2, 1)
        y = F.relu(self.unit(3, self.unit(2, F.relu(self.unit(1, y)))))
        return shuffle(torch.cat((passed, y), 1), 2)


class ShuffleNetV2(Units):
    def __init__(self, classes):
        super().__init__(conv_norm(3, 24), conv_norm(464, 1024))
        inputs = 24
        for stage, (width, blocks) in enumerate(((116, 3), (232, 7), (464, 3)), 1):
            setattr(self, f"layer{stage}",
                    nn.Sequential(DownBlock(inputs, width // 2), *[HalfBlock(width // 2) for _ in range(blocks)]))
            inputs = width
        self.linear = nn.Linear(1024, classes)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(F.relu(self.unit(1, x)))))
        x = F.relu(self.unit(2, x))
        return self.linear(x.mean((2, 3))), x


MOBILE = {"mobilenet_v1": MobileNetV1, "mobilenet_v2_half": MobileNetV2Half, "shufflenet_v1": ShuffleNetV1,
          "shufflenet_v2": ShuffleNetV2}


def build(name, classes):
    if name in MOBILE:
        return MOBILE[name](classes)
    if name.startswith("vgg"):
        return Vgg(int(name[len("vgg"):]), classes)
    if name.startswith("resnet"):
        return ResNet(int(name[len("resnet"):]), classes)
    if name.startswith("wrn_"):
        _, depth, width = name.split("_")
        return WideResNet(int(depth), int(width), classes)
    sys.exit(f"no model '{name}' (resnet20, resnet32, wrn_16_2, ...)")
