// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * QEMU's educational PCI device: its registers, and the kernel's DMA mappings for it. One device at most.
 *
 * What is done with it is decided in Rust (src/edu.rs), which also keeps two transfers from overlapping.
 */
#include "samples.h"

#include <linux/dma-mapping.h>
#include <linux/io-64-nonatomic-lo-hi.h>
#include <linux/iommu.h>
#include <linux/module.h>
#include <linux/pci.h>

#define EDU_ID 0x00
#define EDU_SOURCE 0x80
#define EDU_TARGET 0x88
#define EDU_COUNT 0x90
#define EDU_COMMAND 0x98
#define EDU_RUN 1
#define EDU_TO_MEMORY 2
/* The device's own memory, as its DMA engine names it; the processor cannot reach it. */
#define EDU_BUFFER 0x40000

static unsigned int edu_dma_bits = 28;
module_param(edu_dma_bits, uint, 0444);
MODULE_PARM_DESC(edu_dma_bits, "address bits of the edu device; cannot be read from it (QEMU: -device edu,dma_mask=...)");

static struct {
	struct pci_dev *pdev;
	void __iomem *registers;
	/* What the device takes its data from and leaves it in, for the kernel. */
	void *staging;
	dma_addr_t staging_at;
} edu;

static int edu_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	int ret;

	if (edu.pdev)
		return -EBUSY;
	if (edu_dma_bits < PAGE_SHIFT || edu_dma_bits > 64)
		return -EINVAL;
	ret = pcim_enable_device(pdev);
	if (ret)
		return ret;
	ret = pcim_iomap_regions(pdev, BIT(0), "userptr");
	if (ret)
		return ret;
	edu.registers = pcim_iomap_table(pdev)[0];
	if ((readl(edu.registers + EDU_ID) & 0xff) != 0xed)
		return -ENODEV;
	ret = dma_set_mask_and_coherent(&pdev->dev, DMA_BIT_MASK(edu_dma_bits));
	if (ret)
		return ret;
	edu.staging = dmam_alloc_coherent(&pdev->dev, PAGE_SIZE, &edu.staging_at, GFP_KERNEL);
	if (!edu.staging)
		return -ENOMEM;
	pci_set_master(pdev);
	edu.pdev = pdev;
	return 0;
}

/* After the last mapping is gone: the module is being unloaded. Who pulls the device out earlier is told so. */
static void edu_remove(struct pci_dev *pdev)
{
	pci_clear_master(pdev);
	WARN(sample_counter(USERPTR_MAPPED), "userptr: %ld pages left mapped for DMA\n", sample_counter(USERPTR_MAPPED));
	edu.pdev = NULL;
}

static const struct pci_device_id edu_ids[] = {
	{ PCI_DEVICE(0x1234, 0x11e8) },
	{},
};

static struct pci_driver edu_driver = {
	.name = "userptr-edu",
	.id_table = edu_ids,
	.probe = edu_probe,
	.remove = edu_remove,
	.driver = {
		.probe_type = PROBE_FORCE_SYNCHRONOUS,
		/* The files do not know how to lose their device. */
		.suppress_bind_attrs = true,
	},
};

/* 0 also if there is no such device. */
int sample_edu_register(void)
{
	return pci_register_driver(&edu_driver);
}

void sample_edu_unregister(void)
{
	pci_unregister_driver(&edu_driver);
}

bool sample_edu_present(void)
{
	return edu.pdev != NULL;
}

/*
 * What the DMA layer can do for the device: the most pages that it can address, the most in one mapping, and whether it
 * reaches all memory. If not, some pages would be replaced by bounce buffers, which do not show what the other side writes.
 */
void sample_edu_limits(u64 *pages, u64 *mapping_pages, bool *reaches_all)
{
	struct device *dev = &edu.pdev->dev;
	struct iommu_domain *domain = iommu_get_domain_for_dev(dev);

	*pages = (dma_get_mask(dev) >> PAGE_SHIFT) + 1;
	*mapping_pages = max_t(u64, dma_max_mapping_size(dev) >> PAGE_SHIFT, 1);
	*reaches_all = (domain && domain->type != IOMMU_DOMAIN_IDENTITY) || !dma_addressing_limited(dev);
}

static enum dma_data_direction direction(bool write)
{
	return write ? DMA_BIDIRECTIONAL : DMA_TO_DEVICE;
}

/*
 * Whether the DMA layer put a bounce buffer in the page's place. With an IOMMU dma_need_sync() cannot tell: it says what the
 * layer may do, not what it did.
 */
static bool is_bounced(struct page *page, dma_addr_t at)
{
	struct iommu_domain *domain = iommu_get_domain_for_dev(&edu.pdev->dev);

	if (domain)
		return iommu_iova_to_phys(domain, at) != page_to_phys(page);
	return dma_need_sync(&edu.pdev->dev, at);
}

/* Maps pages whose frames follow each other. 0, -ENOMEM, or -ENODEV: a bounce buffer would be needed. */
int sample_edu_map(unsigned long frame, unsigned long pages, bool write, u64 *at)
{
	struct device *dev = &edu.pdev->dev;
	struct page *page = pfn_to_page(frame);
	dma_addr_t got = dma_map_page(dev, page, 0, pages << PAGE_SHIFT, direction(write));

	if (dma_mapping_error(dev, got))
		return -ENOMEM;
	if (is_bounced(page, got)) {
		dma_unmap_page(dev, got, pages << PAGE_SHIFT, direction(write));
		return -ENODEV;
	}
	*at = got;
	sample_count(USERPTR_MAPPED, pages);
	return 0;
}

/*
 * Called inside invalidations: does not wait for memory and cannot fail. Behind an IOMMU the DMA layer may allocate (GFP_ATOMIC) to keep
 * the address ready for the next mapping; it goes without where that fails.
 */
void sample_edu_unmap(u64 at, unsigned long pages, bool write)
{
	dma_unmap_page(&edu.pdev->dev, at, pages << PAGE_SHIFT, direction(write));
	sample_count(USERPTR_MAPPED, -(long)pages);
}

/* The kernel's page for the device, and where the device finds it. */
void *sample_edu_staging(u64 *at)
{
	*at = edu.staging_at;
	return edu.staging;
}

/* Begins a transfer between memory and the beginning of the device's buffer. None is in flight; at most 2,048 bytes. */
void sample_edu_start(u64 memory, size_t len, bool to_memory)
{
	writeq(to_memory ? EDU_BUFFER : memory, edu.registers + EDU_SOURCE);
	writeq(to_memory ? memory : EDU_BUFFER, edu.registers + EDU_TARGET);
	writeq(len, edu.registers + EDU_COUNT);
	writeq(EDU_RUN | (to_memory ? EDU_TO_MEMORY : 0), edu.registers + EDU_COMMAND);
}

/* 1: a transfer is in flight. 0: none, and what the last one wrote is in memory. -EIO: the device does not answer. */
int sample_edu_running(void)
{
	u64 command = readq(edu.registers + EDU_COMMAND);

	return command == U64_MAX ? -EIO : command & EDU_RUN;
}
