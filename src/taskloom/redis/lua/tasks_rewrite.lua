-- Put tasks as they were thought over in place of those that were read. Message: each {id, rev, row};
-- rev -1: there was none. Another status ends the lease, anything else leaves it.
-- Returns the ids that have changed since they were read.
local stale = {}
for _, each in ipairs(message) do
  local id, rev, new = each[1], each[2], each[3]
  local row = find(id)
  if not row and rev == -1 then
    insert(id, new)
  elseif not row or tonumber(row.rev) ~= rev then
    stale[#stale + 1] = id
  elseif row.status == new.status then
    replace(id, row, new, {
      epoch = row.epoch, deliveries = row.deliveries, lease = row.lease
    })
  else
    replace(id, row, new, {epoch = row.epoch + 1, deliveries = row.deliveries})
  end
end
return stale
